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

# Tasks that Ray Data holds at a time; the driver carries no more actors than so many.
TASKS_AT_ONCE, TASKS_AT_ONCE_PER_ACTOR, MOST_ACTORS_CARRIED = 2000, 200, 1000


@dataclass(frozen=True)
class RayFleet:
    """The actors of a plan; a fleet for CertificationRun."""

    plan: FleetSize
    counter: CounterSettings
    task_seconds = TASK_SECONDS

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
        actors = min(self.largest, MOST_ACTORS_CARRIED)
        size = max(TASKS_AT_ONCE, TASKS_AT_ONCE_PER_ACTOR * actors)
        while window := [task_table(items) for items in islice(tasks, size)]:
            for table in stream(window, CountingActor, settings, self.plan, patience):
                yield from read_answers(table)
