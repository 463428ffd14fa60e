"""How the embedded Ray starts: for this machine alone, with a token that only its user reads."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rsray.errors import UserError

# Ray gives its processes 30 seconds, which a busy machine may not keep, and takes no other limit.
# While it waits for its GCS's port no other thread runs, nor is a GCS missed that has died.
START_TIMED_OUT, MOST_STARTS = ("timed out during startup", "Timed out waiting for file"), 3
PORT_SECONDS = 15
# Object store of the embedded Ray: counts are small. Images that are streamed to the workers of a
# training wait there, decoded: 300 MiB fed a worker 241 a second of ImageNet's, 4 GiB 820 and more.
STORE_BYTES, STREAM_BYTES = 300 * 2**20, 4 * 2**30
STREAM_SHARE = 0.2
SHARED_MEMORY = Path("/dev/shm")
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


def start_embedded(
    ray: Any, dashboard: bool, sweep: Callable[[], None], *, streams: bool = False
) -> None:
    """Start a Ray of this process's own; UserError where this machine is too busy for it.

    With `streams` there is room for the images of a training that are read as they are needed.
    `sweep` ends the processes that a start which came too late has left.
    """
    from rsray.core.gpus import usable_gpus

    make_token()
    for _ in range(MOST_STARTS):
        try:
            with _on_loopback(ray):
                ray.init(
                    address="local",
                    # Ray itself would count GPUs that torch cannot use.
                    num_gpus=usable_gpus(),
                    include_dashboard=dashboard,
                    object_store_memory=store_bytes(ray, streams),
                    job_config=closed_job(ray),
                    **QUIET,
                )
            return
        except Exception as problem:  # Ray raises no type of its own
            if not any(words in str(problem) for words in START_TIMED_OUT):
                raise
            ray.shutdown()
            sweep()
    raise UserError(
        f"Ray did not start within 30 seconds, {MOST_STARTS} times: this machine is too busy now; "
        "run the same command again"
    )


class _NoFolders(list[str]):
    """Takes no folder on."""

    def extend(self, folders: Iterable[str]) -> None:
        """Leave the list as it is."""


def closed_job(ray: Any) -> Any:
    """Return the configuration of a job whose workers import nothing of the current folder.

    Ray itself puts that folder first where its workers look for modules.
    """
    job = ray.job_config.JobConfig()
    job._py_driver_sys_path = _NoFolders()
    return job


def store_bytes(ray: Any, streams: bool) -> int:
    """Return the size of the object store, of what memory this machine has free."""
    if not streams:
        return STORE_BYTES
    room = ray._private.utils.estimate_available_memory() * STREAM_SHARE
    if SHARED_MEMORY.exists():
        # Ray would put what is too large for it on the disk.
        room = min(room, shutil.disk_usage(SHARED_MEMORY).free * 0.9)
    return max(STORE_BYTES, min(STREAM_BYTES, int(room)))


def make_token() -> None:
    """See that Ray's token is in a file that nobody else can read, before Ray makes one.

    Ray writes `~/.ray/auth_token` with the permissions that new files have. A token that the user
    keeps elsewhere, or wants none of, is left alone.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    try:
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        file.chmod(0o600)
        return
    with os.fdopen(made, "w") as token:
        token.write(secrets.token_hex(32))


@contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    """Let what Ray starts in the block listen on 127.0.0.1 only.

    Ray does so by itself where it forms no clusters (macOS, Windows). PyTorch's gloo, by which the
    workers of a training talk, is told in the environment that they inherit.
    """
    constants = ray._private.ray_constants
    own = {
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "RAY_gcs_server_port_wait_time_s": str(PORT_SECONDS),
    }
    before = constants.ENABLE_RAY_CLUSTER, dict(os.environ)
    constants.ENABLE_RAY_CLUSTER = False
    os.environ.update({**own, **os.environ})
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER, environment = before
        for name in own.keys() - environment.keys():
            del os.environ[name]
