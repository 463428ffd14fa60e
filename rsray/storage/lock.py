"""One writer at a time in a folder of an object store, which has no locks.

Every writer puts a lock of its own in the folder and then looks for the locks of others. A
listing shows all that was written before it (S3 and GCS promise that), so of two writers at least
one sees the other and gives way. A lock that its writer no longer renews ends by itself.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from rsray.errors import UserError

log = logging.getLogger(__name__)
LOCK_PREFIX = ".claim-"
RENEW_SECONDS = 15.0
# A lock that is not renewed for so long has ended.
LEASE_SECONDS = 60.0


@contextmanager
def hold_folder(filesystem: fs.FileSystem, folder: str, where: str) -> Iterator[None]:
    """Hold a folder that exists; UserError, naming `where`, if another process holds it.

    The lock of a process of this machine that is dead, or one not renewed for a minute, is
    removed.
    """
    lock = LockFile(filesystem, f"{folder}/{LOCK_PREFIX}{uuid.uuid4().hex}")
    try:
        try:
            lock.write()
            _give_way(lock, folder, where)
        except OSError as problem:
            text = " ".join(str(problem).split())
            raise UserError(f"cannot write to {where}: {text}") from problem
        with _keep_renewing(lock):
            yield
    finally:
        lock.remove()


@dataclass(frozen=True)
class LockFile:
    """A file that says which process writes to a folder."""

    filesystem: fs.FileSystem
    path: str

    def write(self) -> None:
        """Make or renew the lock of this process."""
        content = {"machine": _machine_name(), "pid": os.getpid(), "time": time.time()}
        content["host"] = socket.gethostname()
        with self.filesystem.open_output_stream(self.path, compression=None) as stream:
            stream.write(json.dumps(content).encode())

    def read(self) -> dict[str, Any] | None:
        """Return what the lock says and its `time` of renewal; None if it is gone or no lock.

        The time is the object store's where it tells one: machines' clocks differ.
        """
        try:
            with self.filesystem.open_input_stream(self.path, compression=None) as stream:
                content: dict[str, Any] = json.loads(stream.read())
            modified = self.filesystem.get_file_info(self.path).mtime_ns
        except (FileNotFoundError, ValueError):
            return None
        return {**content, "time": modified / 1e9 if modified else float(content["time"])}

    def remove(self) -> None:
        """Give the folder back."""
        try:
            self.filesystem.delete_file(self.path)
        except OSError as problem:
            # It is gone, or the store does not answer and it ends by itself.
            log.debug("%s: %s", self.path, problem)


def _give_way(own: LockFile, folder: str, where: str) -> None:
    """Raise UserError if another lock in the folder lives; remove those that do not."""
    infos = own.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    locks = [info for info in infos if info.base_name.startswith(LOCK_PREFIX)]
    mine = own.read()
    now = mine["time"] if mine else time.time()
    for info in locks:
        other = LockFile(own.filesystem, info.path)
        said = None if info.base_name == Path(own.path).name else other.read()
        if said is None:
            continue
        age = now - said["time"]
        if age > LEASE_SECONDS or _is_dead(said):
            other.remove()
            continue
        raise UserError(
            f"another rsray is writing to {where} (host {said['host']}, process {said['pid']}): "
            f"wait or use another --out; if it was killed, wait {LEASE_SECONDS - age:.0f} seconds"
        )


@contextmanager
def _keep_renewing(lock: LockFile) -> Iterator[None]:
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_SECONDS):
            try:
                # This process slept for longer than the lease.
                if lock.read() is None:
                    log.error("another rsray may have taken over: %s is gone", lock.path)
                lock.write()
            except OSError as problem:
                log.warning("the lock %s could not be renewed: %s", lock.path, problem)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _is_dead(said: dict[str, Any]) -> bool:
    """Tell whether the process that made a lock ran on this machine and does not any more."""
    if said["machine"] != _machine_name():
        return False
    # One that lives under another account may not be asked.
    with suppress(PermissionError):
        try:
            os.kill(said["pid"], 0)
        except ProcessLookupError:
            return True
    return False


def _machine_name() -> str:
    """Return what processes share whose process numbers can be compared."""
    parts = [socket.gethostname()]
    # Where this is Linux.
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
