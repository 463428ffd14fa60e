"""One Ray session for a command: an embedded local Ray, or the cluster at an address."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rsray.distributed.embedded_ray import QUIET, closed_job, start_embedded
from rsray.distributed.guard import Guard
from rsray.errors import UserError

CONNECT_SECONDS = 5.0


@contextmanager
def session(
    address: str | None = None, *, dashboard: bool = False, streams: bool = False
) -> Iterator[Any]:
    """Connect to Ray and yield the `ray` module; an embedded Ray is shut down at the end.

    `address` (else RAY_ADDRESS) names a cluster; without one an embedded local Ray is started, with
    room for a stream of images if `streams`. A session that is already open is used and left open.
    Raises UserError when the cluster does not answer, LostProcessError when a process of the
    embedded Ray dies.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS")
    if where in (None, "local"):
        with Guard(ray) as guard, guard.watching():
            _start(lambda: start_embedded(ray, dashboard, guard.sweep, streams=streams))
            yield ray
        return
    _check_reachable(where)
    # Through Ray's client no folder of this machine is named.
    job = {} if where.startswith("ray://") else {"job_config": closed_job(ray)}
    try:
        _start(lambda: ray.init(address=where, **job, **QUIET))
    except (ConnectionError, RuntimeError, ValueError) as problem:
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
        # "auto", "local": Ray knows where
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as problem:  # of ports and names that are none
        raise UserError(f"no Ray cluster answers at {where!r}: {problem}") from problem


def _start(start: Callable[[], object]) -> None:
    """Start or join Ray, which announces itself and takes SIGTERM, without either."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _held_back_stderr():
            start()
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    except OSError as problem:
        if "AF_UNIX" not in str(problem):
            raise
        raise UserError(
            f"{tempfile.gettempdir()} is too long a path for Ray's sockets: set TMPDIR to a "
            "shorter one, such as /tmp"
        ) from problem
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Hold back what C++ code writes to stderr, and show it only if the block fails by itself.

    Ray announces there that it has read RAY_BACKEND_LOG_LEVEL.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def quiet_logs() -> None:
    """Keep Ray's libraries from logging to the user's terminal, errors apart."""
    for name in ("", ".data", ".data._internal.execution.streaming_executor", ".train", ".tune"):
        logging.getLogger(f"ray{name}").setLevel(logging.ERROR)


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
