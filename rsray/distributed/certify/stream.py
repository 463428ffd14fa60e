"""Tasks through Ray Data to a pool of actors, answers back as they are ready."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from rsray.certification.counting.certification_run import GIVE_UP_AFTER_SILENT_SECONDS
from rsray.distributed.capacity import FleetSize
from rsray.distributed.session import quiet_logs
from rsray.errors import UserError

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


def stream(
    tasks: Sequence[pa.Table],
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
    answers = _answers(tasks, actor, settings, fleet)
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
        raise UserError(f"actors die as they start: {_last_line(problem)}") from problem
    except ExecutionTimeoutError as problem:
        raise UserError(
            f"no actor has answered for {patience / 60:,.0f} minutes: see that the nodes are up "
            "and the data can be read, and run the same command again"
        ) from problem


def _answers(tasks: Sequence[pa.Table], actor: type[Any], settings: Any, fleet: FleetSize) -> Any:
    """Return the pipeline of Ray Data that calls a pool of actors with the tasks."""
    import ray.data

    blocks: list[Any] = list(tasks)
    # Ray 2.60 has no other name for max_task_retries yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return ray.data.from_blocks(blocks).map_batches(
            actor,
            fn_constructor_args=[settings],
            # One item a call: with GPUs Ray Data insists on a number
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=min(fleet.actors, len(tasks)),
                max_size=min(fleet.largest, len(tasks)),
                max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT_PER_ACTOR,
                # In the thread that built the actor, where its CUDA graphs were recorded.
                enable_true_multi_threading=True,
            ),
            num_cpus=fleet.cpus,
            num_gpus=fleet.gpus,
            max_task_retries=MAX_TASK_RETRIES,
        )


def _last_line(problem: Exception) -> str:
    """Return what an error of a Ray process says at the end of its traceback."""
    return next((line for line in reversed(str(problem).splitlines()) if line.strip()), "")
