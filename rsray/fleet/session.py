"""One Ray session for a command: an embedded local Ray, or the cluster at an address."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rsray.errors import UserError

# Set before ray is imported, unless the user set them (RAY.md, sections 0, 1 and 5).
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use the driver's environment as it is
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray prints an error for every actor pool that is none (ray #53727); its log files keep the rest.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
STORE_BYTES = 300 * 2**20  # object store of the embedded Ray: counts and images in flight are small


def prepare_environment() -> None:
    """Set what Ray reads from the environment when it is imported."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")


@contextmanager
def session(address: str | None = None, *, dashboard: bool = False) -> Iterator[Any]:
    """Connect to Ray and yield the `ray` module; an embedded Ray is shut down at the end.

    `address` (else RAY_ADDRESS) names a cluster; without one an embedded local Ray is started. A
    session that is already open is used and left open. Raises UserError when the cluster does not
    answer.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS")
    try:
        _start(ray, where, dashboard)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        if where is None:
            raise
        raise UserError(f"no Ray cluster answers at {where!r}: {str(problem).splitlines()[0]}") from problem
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, where: str | None, dashboard: bool) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _held_back_stderr():
        if where is not None and where != "local":
            ray.init(address=where, **quiet)
            return
        ray.init(
            address="local",
            include_dashboard=dashboard,
            object_store_memory=STORE_BYTES,
            **quiet,
        )


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Hold back what C++ code writes to stderr, and show it only if the block fails.

    Ray announces there that it has read RAY_BACKEND_LOG_LEVEL.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def cluster_cpus() -> int:
    """Return the number of CPU cores that Ray may use now."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def cluster_gpus() -> float:
    """Return the number of GPUs that Ray may use now."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0))
