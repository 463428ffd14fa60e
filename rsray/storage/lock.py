"""One writer at a time in a folder of an object store, which has no locks.

Every writer puts a claim of its own in the folder and then looks for the claims of others. A
listing shows all that was written before it (S3 and GCS promise that), so of two writers at least
one sees the other and gives way. A claim that its writer no longer renews ends by itself.
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from rsray.errors import UserError

log = logging.getLogger(__name__)
PREFIX = ".claim-"
RENEW_SECONDS = 15.0
LEASE_SECONDS = 60.0  # without renewal


@contextmanager
def hold(filesystem: fs.FileSystem, folder: str, where: str) -> Iterator[None]:
    """Hold a folder that exists; UserError, naming `where`, if another process holds it.

    The claim of a process of this machine that is dead, or one not renewed for a minute, is
    removed.
    """
    claim = Claim(filesystem, f"{folder}/{PREFIX}{uuid.uuid4().hex}")
    try:
        _make(claim, folder, where)
        with _renewed(claim):
            yield
    finally:
        claim.remove()


def _make(claim: Claim, folder: str, where: str) -> None:
    try:
        claim.write()
        _give_way(claim, _others(claim, folder), where)
    except OSError as problem:
        text = " ".join(str(problem).split())
        raise UserError(f"cannot write to {where}: {text}") from problem


@dataclass(frozen=True)
class Claim:
    """A file that says which process writes to a folder."""

    filesystem: fs.FileSystem
    path: str

    def write(self) -> None:
        """Make or renew the claim of this process."""
        content = {"machine": _machine(), "pid": os.getpid(), "time": time.time()}
        content["host"] = socket.gethostname()
        with self.filesystem.open_output_stream(self.path, compression=None) as stream:
            stream.write(json.dumps(content).encode())

    def read(self) -> dict[str, Any] | None:
        """Return what the claim says and its `time` of renewal; None if it is gone or no claim.

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
        except OSError as problem:  # gone, or the store does not answer: it ends by itself
            log.debug("%s: %s", self.path, problem)


def _others(own: Claim, folder: str) -> list[Claim]:
    infos = own.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    paths = [info.path for info in infos if info.base_name.startswith(PREFIX)]
    return [Claim(own.filesystem, path) for path in paths if not path.endswith(Path(own.path).name)]


def _give_way(own: Claim, others: list[Claim], where: str) -> None:
    """Raise UserError if one of the others lives; remove those that do not."""
    mine = own.read()
    now = mine["time"] if mine else time.time()
    for other in others:
        said = other.read()
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
def _renewed(claim: Claim) -> Iterator[None]:
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_SECONDS):
            try:
                if claim.read() is None:  # this process slept for longer than the lease
                    log.error("another rsray may have taken over: %s is gone", claim.path)
                claim.write()
            except OSError as problem:
                log.warning("the claim %s could not be renewed: %s", claim.path, problem)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _is_dead(said: dict[str, Any]) -> bool:
    """Tell whether the process that made a claim ran on this machine and does not any more."""
    if said["machine"] != _machine():
        return False
    try:
        os.kill(said["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, under another account
        return False
    return False


def _machine() -> str:
    """Return what processes share whose process numbers can be compared."""
    parts = [socket.gethostname()]
    for read in (_boot, _namespace):
        try:
            parts.append(read())
        except OSError:  # not Linux
            parts.append("")
    return " ".join(parts)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")
