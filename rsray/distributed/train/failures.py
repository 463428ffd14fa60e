"""Why a group of workers failed: the user's mistake, short memory, or the machines' fault."""

from __future__ import annotations

import re

import torch

from rsray.errors import UserError
from rsray.training.step import MemoryShortError

MOST_CHARACTERS_SHOWN = 300
# What a worker says that waits for another, or loses it, as the group is set up.
LOST_PEER = re.compile("connect|peer|remote process|timed? ?out|broken pipe", re.IGNORECASE)


def cause_of(problem: Exception) -> Exception:
    """Return the user's mistake, or short memory, behind a failed worker group, or the failure.

    Of a group that could not be set up it is what kept the group from it.
    """
    problem = getattr(problem, "controller_failure", problem)
    failures = getattr(problem, "worker_failures", {0: problem})
    for failure in failures.values():
        error: BaseException | None = failure
        while error is not None:
            if isinstance(error, UserError | MemoryShortError):
                return error
            error = getattr(error, "cause", None) or error.__cause__
    return problem


def end_of_reason(problem: Exception) -> str:
    """Return the last line of what a failure says: the error, below the traceback that led to it.

    Of a long line its end.
    """
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines or [type(problem).__name__])[-1][-MOST_CHARACTERS_SHOWN:]


def refuse_failed_setup(problem: Exception) -> None:
    """Raise UserError for what the set-up of a group raised: it would be raised again.

    Not so where a worker was lost meanwhile.
    """
    from ray.exceptions import RayTaskError

    cause = problem.cause if isinstance(problem, RayTaskError) else None
    if cause is not None and not LOST_PEER.search(str(cause)):
        raise UserError(f"the workers cannot be set up: {end_of_reason(problem)}") from problem


def is_machines_fault(problem: Exception) -> bool:
    """Tell whether training failed through a lost worker or node, or a GPU in an error state.

    Whatever a worker's own code raises is the setting's fault, but for CUDA errors: after one of
    them, a lack of memory apart, every later call in the same process fails too.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError, WorkerGroupError

    if isinstance(problem, WorkerGroupError):
        failures = problem.worker_failures.values()
        return any(is_machines_fault(failure) for failure in failures)
    # Of Ray Train's own there is a worker's health check.
    is_trains = type(problem).__module__.startswith("ray.train.")
    if is_trains or isinstance(problem, TrainingFailedError | RayError):
        return True
    text = str(problem)
    is_cuda = isinstance(problem, torch.AcceleratorError) or "CUDA error" in text
    return is_cuda and "out of memory" not in text
