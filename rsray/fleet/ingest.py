"""Tasks through Ray Data to a pool of actors, answers back as they are ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from rsray.fleet.capacity import Fleet
from rsray.fleet.session import quiet_logs

TASKS_IN_FLIGHT = 2  # per actor: the next one waits there while the first is worked on


def stream(
    tasks: Sequence[pa.Table], actor: type[Any], job: dict[str, Any], fleet: Fleet
) -> Iterator[pa.Table]:
    """Yield an answer for each task, in the order they are ready.

    `actor(job)` is built once per actor and called with a task. Ray Data keeps the pool, sends a
    lost actor's tasks to another, and holds back tasks while answers are not taken; a fleet that
    may grow does so while tasks wait and the cluster has, or gets, nodes for it.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    quiet_logs()
    blocks: list[Any] = list(tasks)
    answers: Any = (
        ray.data.from_arrow(blocks)
        .map_batches(
            actor,
            fn_constructor_args=[job],
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=min(fleet.actors, len(tasks)),
                max_size=min(fleet.largest, len(tasks)),
                max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
            ),
            num_cpus=fleet.cpus,
            num_gpus=fleet.gpus,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    )
    yield from answers
