"""The certification fleet on Ray Data: items to actors, counts back.

Items travel without pixels: an actor reads its images where it counts them, so nothing but a few
integers per image moves through the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from rsray.certification.counting.answers import Answer, read_answers, task_table
from rsray.certification.counting.counter import CounterSettings
from rsray.certification.work_items import TASK_SECONDS, WorkItem
from rsray.distributed.capacity import FleetSize
from rsray.distributed.certify.actor import ActorSettings, CountingActor
from rsray.distributed.certify.stream import stream
from rsray.distributed.session import search_path

# Of a large fleet tasks are longer: the driver then carries 20 a second, of over 100 that it can
# (tests/bench/bench_fleet.py). What a lost actor costs grows with them.
SECONDS_PER_ACTOR, MOST_TASK_SECONDS = 0.05, 100.0
# Tasks that Ray Data is given at a time, about a millisecond each before the first is counted; the
# actors start anew for the next.
TASKS_AT_ONCE_PER_ACTOR, LEAST_AT_ONCE, MOST_AT_ONCE = 200, 2000, 40_000


@dataclass(frozen=True)
class RayFleet:
    """The actors of a plan; a fleet for CertificationRun."""

    plan: FleetSize
    counter: CounterSettings

    @property
    def task_seconds(self) -> float:
        """The longest that a task should take."""
        return max(TASK_SECONDS, min(MOST_TASK_SECONDS, SECONDS_PER_ACTOR * self.largest))

    @property
    def tasks_at_once(self) -> int:
        """How many tasks Ray Data is given at a time."""
        return min(max(TASKS_AT_ONCE_PER_ACTOR * self.largest, LEAST_AT_ONCE), MOST_AT_ONCE)

    @property
    def largest(self) -> int:
        """How many actors there may be."""
        return self.plan.largest

    def answers(self, tasks: Iterator[list[WorkItem]], patience: float) -> Iterator[Answer]:
        """Yield an answer for each task, as they are ready; none for one whose actors died.

        Raises UserError when no actor can start, or nothing is answered for `patience` seconds.
        """
        import ray

        settings = ActorSettings(ray.put(self.counter), search_path())
        while window := [task_table(items) for items in islice(tasks, self.tasks_at_once)]:
            for table in stream(window, CountingActor, settings, self.plan, patience):
                yield from read_answers(table)
