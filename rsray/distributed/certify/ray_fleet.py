"""The certification fleet on Ray Data: items to actors, counts back.

Items travel without pixels: an actor reads its images where it counts them, so nothing but a few
integers per image moves through the cluster.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, takewhile
from threading import Event
from typing import Any, NamedTuple

import pyarrow as pa

from rsray.certification.counting.answers import Answer, read_answers, read_items, task_table
from rsray.certification.counting.certification_run import GIVE_UP_AFTER_SILENT_SECONDS
from rsray.certification.counting.counter import Counter, CounterSettings
from rsray.certification.work_items import TASK_SECONDS, WorkItem
from rsray.distributed.capacity import FleetSize
from rsray.distributed.session import extend_search_path, quiet_logs, search_path
from rsray.distributed.train.failures import end_of_reason
from rsray.errors import UserError

# Of a large fleet tasks are longer: the driver then carries 20 a second, of over 100 that it can
# (tests/bench/bench_fleet.py). What a lost actor costs grows with them.
SECONDS_PER_ACTOR, MOST_TASK_SECONDS = 0.05, 100.0
# Tasks that Ray Data is given at a time, each of which takes some 30 kB of the driver's memory. The
# actors start anew for the next lot, in about twenty seconds: 1 % of the time that a lot takes.
TASKS_AT_ONCE_PER_ACTOR, LEAST_AT_ONCE, MOST_AT_ONCE = 400, 4000, 80_000
# The next task waits at the actor while the first is worked on.
TASKS_IN_FLIGHT_PER_ACTOR = 2
# Of actors as they start, one after the other.
GIVE_UP_AFTER_DEATHS = 5
# Of a task whose actor died; it is then left out of the answers.
MAX_TASK_RETRIES = 2
# They log lost tasks and dying actors with whole tracebacks; what came of them is said elsewhere.
_LOUD = (
    "ray.data.exceptions",
    "ray.data._internal.execution.streaming_executor_state",
    "ray.data._internal.execution.operators.actor_pool_map_operator",
)


class ActorSettings(NamedTuple):
    """What the driver sends to each actor as it starts."""

    # A reference to the CounterSettings in Ray's object store.
    counter: Any
    search_path: tuple[str, ...]


class CountingActor:
    """Counts what tasks name; one per GPU or CPU core."""

    def __init__(self, settings: ActorSettings) -> None:
        """Build the engine from what the driver sent."""
        import ray

        extend_search_path(settings.search_path)
        self.counter = Counter(ray.get(settings.counter))

    def __call__(self, task: pa.Table) -> pa.Table:
        """Return the answer to a task, as a table."""
        return self.counter.count(read_items(task)).table()


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
        # A task takes the driver a millisecond: the next lot is made while this one is counted.
        stopped = Event()
        with ThreadPoolExecutor(1) as beside:
            try:
                coming = beside.submit(self._next_lot, tasks, stopped)
                while (lot := coming.result()) is not None:
                    coming = beside.submit(self._next_lot, tasks, stopped)
                    for table in stream(lot, CountingActor, settings, self.plan, patience):
                        yield from read_answers(table)
            finally:
                stopped.set()

    def _next_lot(self, tasks: Iterator[list[WorkItem]], stopped: Event) -> Lot | None:
        """Return the next tasks, if there are some; too few once it is stopped."""
        lot = _UntilStopped(stopped)
        lot.extend(map(task_table, lot.until_stopped(islice(tasks, self.tasks_at_once))))
        return make_lot(lot) if lot else None


class _UntilStopped(list[pa.Table]):
    """Tasks that end early once nobody wants them: to put a large lot takes a minute."""

    def __init__(self, stopped: Event) -> None:
        super().__init__()
        self.stopped = stopped

    def __iter__(self) -> Iterator[pa.Table]:
        return self.until_stopped(super().__iter__())

    def until_stopped(self, found: Iterator[Any]) -> Iterator[Any]:
        """Yield what is found while tasks are wanted."""
        return takewhile(lambda each: not self.stopped.is_set(), found)


class Lot(NamedTuple):
    """Tasks in Ray's object store."""

    # A data set of Ray Data's with a block for each task.
    tasks: Any
    num_tasks: int


def make_lot(tasks: Sequence[pa.Table]) -> Lot:
    """Put tasks into Ray's object store, for `stream`."""
    import ray.data

    blocks: Any = tasks
    return Lot(ray.data.from_blocks(blocks), len(tasks))


def stream(
    lot: Lot,
    actor: type[Any],
    settings: Any,
    fleet: FleetSize,
    patience: float = GIVE_UP_AFTER_SILENT_SECONDS,
) -> Iterator[pa.Table]:
    """Yield an answer for each task, in the order they are ready.

    `actor(settings)` is built once per actor and called with a task. Ray Data keeps the pool, sends
    a lost actor's tasks to another, and holds back tasks while answers are not taken; a fleet that
    may grow does so while tasks wait and the cluster has, or gets, nodes for it. A task whose
    actors die again and again has no answer. Raises UserError when no actor can start, or nothing
    is answered for `patience` seconds.
    """
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayActorError

    quiet_logs()
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    answers = _answers(lot, actor, settings, fleet)
    # This pipeline's own.
    context = answers.context
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.max_consecutive_actor_init_deaths = GIVE_UP_AFTER_DEATHS
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = patience
    answers = answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    try:
        yield from answers
    except RayActorError as problem:
        raise UserError(f"actors die as they start: {end_of_reason(problem)}") from problem
    except ExecutionTimeoutError as problem:
        raise UserError(
            f"no actor has answered for {patience / 60:,.0f} minutes: see that the nodes are up "
            "and the data can be read, and run the same command again"
        ) from problem


def _answers(lot: Lot, actor: type[Any], settings: Any, fleet: FleetSize) -> Any:
    """Return the pipeline of Ray Data that calls a pool of actors with the tasks."""
    import ray.data

    # Ray 2.60 has no other name for max_task_retries yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return lot.tasks.map_batches(
            actor,
            fn_constructor_args=[settings],
            # One item a call: with GPUs Ray Data insists on a number
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=min(fleet.actors, lot.num_tasks),
                max_size=min(fleet.largest, lot.num_tasks),
                max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT_PER_ACTOR,
                # In the thread that built the actor, where its CUDA graphs were recorded.
                enable_true_multi_threading=True,
            ),
            num_cpus=fleet.cpus,
            num_gpus=fleet.gpus,
            max_task_retries=MAX_TASK_RETRIES,
        )
