"""One task computes on a GPU of the cluster before work starts that needs GPUs.

Ray counts GPUs without asking torch: one of Apple's or Intel's, one whose driver is too old for
this torch, and one that it has no kernels for count like any other.
"""

from __future__ import annotations

import logging
import platform
from typing import Any

from rsray.core.gpus import usable_gpus, why_gpu_fails
from rsray.errors import UserError

log = logging.getLogger(__name__)
# A node with a GPU may have to be started for the task, or another's work to end.
SAY_AFTER_SECONDS, GIVE_UP_AFTER_SECONDS = 20.0, 1800.0


def check_gpus(gpus: float) -> None:
    """Raise UserError unless a process with so many of the cluster's GPUs can compute on them.

    It waits for the first node that has them, so that a cluster from zero has begun to grow.
    """
    if not gpus or (is_this_machine() and usable_gpus()):
        return
    if reason := probe_gpu(gpus):
        raise UserError(
            f"{reason}; Ray counts that GPU, but no network can be computed on it: take other "
            "nodes, or 0 GPUs each to compute on CPUs"
        )


def probe_gpu(gpus: float) -> str | None:
    """Return the node, and in a line why a task with a GPU cannot compute on it; None if it can."""
    import ray

    task = ray.remote(num_cpus=0, num_gpus=min(gpus, 1), max_retries=0)(_try_gpu)
    answer: Any = task.remote()
    ready, _ = ray.wait([answer], timeout=SAY_AFTER_SECONDS)
    if not ready:
        log.warning("waiting for a GPU that is free")
        ready, _ = ray.wait([answer], timeout=GIVE_UP_AFTER_SECONDS)
    if not ready:
        ray.cancel(answer)
        raise UserError(
            f"no GPU became free within {GIVE_UP_AFTER_SECONDS / 60:.0f} minutes: see that the "
            "cluster's nodes are up, and run the same command again"
        )
    found: str | None = ray.get(answer)
    return found


def is_this_machine() -> bool:
    """Tell whether this machine is the only node of the cluster."""
    import ray

    nodes = sum(node["Alive"] for node in ray.nodes())
    return nodes == 1 and not ray.util.client.ray.is_connected()


def _try_gpu() -> str | None:
    reason = why_gpu_fails()
    return reason and f"{platform.node()}: {reason}"
