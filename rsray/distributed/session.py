"""One Ray session for a command: an embedded local Ray, or the cluster at an address."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rsray.errors import UserError

CONNECT_SECONDS = 5.0
# Ray gives its processes 30 seconds, which a busy machine may not keep, and takes no other limit.
START_TIMED_OUT, MOST_STARTS = "timed out during startup", 3
STORE_BYTES = 300 * 2**20  # object store of the embedded Ray: counts and images in flight are small


@contextmanager
def session(address: str | None = None, *, dashboard: bool = False) -> Iterator[Any]:
    """Connect to Ray and yield the `ray` module; an embedded Ray is shut down at the end.

    `address` (else RAY_ADDRESS) names a cluster; without one an embedded local Ray is started. A
    session that is already open is used and left open. Raises UserError when the cluster does not
    answer.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS")
    if where is not None:
        _check_reachable(where)
    try:
        _start(ray, where, dashboard)
    except OSError as problem:
        if "AF_UNIX" not in str(problem):
            raise
        raise UserError(
            f"{tempfile.gettempdir()} is too long a path for Ray's sockets: set TMPDIR to a "
            "shorter one, such as /tmp"
        ) from problem
    except (ConnectionError, RuntimeError, ValueError) as problem:
        if where is None:
            raise
        raise UserError(
            f"no Ray cluster answers at {where!r}: {str(problem).splitlines()[0]}"
        ) from problem
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(where: str) -> None:
    """Raise UserError at once when nothing listens there; Ray itself would try for minutes."""
    host, separator, port = where.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto", "local": Ray knows where
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as problem:
        raise UserError(f"no Ray cluster answers at {where!r}: {problem}") from problem


def _start(ray: Any, where: str | None, dashboard: bool) -> None:
    from rsray.core.gpus import usable_gpus

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _held_back_stderr():
        if where is not None and where != "local":
            ray.init(address=where, **quiet)
            return
        for _ in range(MOST_STARTS):
            try:
                ray.init(
                    address="local",
                    # Ray itself would count GPUs that torch cannot use.
                    num_gpus=usable_gpus(),
                    include_dashboard=dashboard,
                    object_store_memory=STORE_BYTES,
                    **quiet,
                )
                return
            except Exception as problem:  # Ray raises no type of its own
                if START_TIMED_OUT not in str(problem):
                    raise
                ray.shutdown()
    raise UserError(
        f"Ray did not start within 30 seconds, {MOST_STARTS} times: this machine is too busy now; "
        "run the same command again"
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


def quiet_logs() -> None:
    """Keep Ray's libraries from logging to the user's terminal, errors apart."""
    for name in (
        "ray",
        "ray.data",
        "ray.data._internal.execution.streaming_executor",
        "ray.train",
        "ray.tune",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def search_path() -> tuple[str, ...]:
    """Return where this process finds modules, a user's own models among them."""
    return tuple(path for path in sys.path if path)


def extend_search_path(driver_path: tuple[str, ...]) -> None:
    """Let this worker find the modules that the driver finds."""
    sys.path += [path for path in driver_path if path not in sys.path]


def cluster_cpus() -> int:
    """Return the number of CPU cores that Ray may use now."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def cluster_gpus() -> float:
    """Return the number of GPUs that Ray may use now."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0))
