"""What watches over an embedded Ray: a lost process ends the run, and none outlives it.

Ray itself waits for a minute, or for good, when one of its own processes has died.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from rsray.distributed import sweeper
from rsray.errors import LostProcessError

LOOK_EVERY_SECONDS = 1.0
# A signal that ends the whole group reaches Ray before this process has dealt with it.
SECONDS_TO_END_BY_ITSELF = 2.5
# An interrupt saves what there is, but a call into a dead Ray may never return.
MOST_SECONDS_TO_SAVE = 8.0
SWEEPER_SECONDS = 6.0
# For these a start of Ray waits half a minute, or a minute, though they have died.
BEGUN_FIRST = {"gcs_server", "raylet"}
# What Ray says of actors and objects when this machine's raylet is gone.
NODE_IS_GONE = re.compile("node has (crashed|died)|local raylet died")


class Guard:
    """Watches the processes of an embedded Ray, from before its start to after its end."""

    def __init__(self, ray: Any) -> None:
        """Watch over what this `ray` module starts."""
        self.ray = ray
        self.lost = ""
        self.ended = threading.Event()
        self.is_main = threading.current_thread() is threading.main_thread()
        self.sweeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guard:
        """Start what ends Ray's processes when this one is gone."""
        _bury_the_dead()
        self._start_sweeper()
        # While Ray starts, what is written to the other one is held back.
        self.stderr = os.dup(2)
        return self

    def __exit__(self, *problem: object) -> None:
        """End what Ray has left."""
        os.close(self.stderr)
        if self.sweeper is not None and self.sweeper.stdin is not None:
            self.sweeper.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.sweeper.wait(SWEEPER_SECONDS)

    def sweep(self) -> None:
        """End the processes of a Ray that did not start."""
        if self.sweeper is not None:
            sweeper.sweep(sweeper.ray_of(os.getpid(), self._folder()))
        _bury_the_dead()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look every second whether Ray lives while the block runs, then shut it down.

        Raises LostProcessError in place of what comes of a process that has died.
        """
        before = signal.signal(signal.SIGUSR2, _interrupt) if self.is_main else None
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        except BaseException as problem:
            # An interrupt is the user's, unless it was sent from here.
            if not isinstance(problem, KeyboardInterrupt):
                self.lost = self.lost or self._cause_of(problem)
            if self.lost:
                raise LostProcessError(self.lost) from problem
            raise
        finally:
            if self.is_main:
                # What is sent from here on comes too late.
                signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            self.ended.set()
            thread.join()
            if self.is_main:
                signal.signal(signal.SIGUSR2, before)
            # It would wait for the dead, and a command ends here.
            if not (self.lost and _is_command()):
                self.ray.shutdown()

    def _start_sweeper(self) -> None:
        if Path("/proc/self/stat").exists():
            # In a session of its own, what kills the group of the run leaves it; it keeps open
            # nothing that others wait for.
            self.sweeper = subprocess.Popen(
                [sys.executable, "-I", "-S", sweeper.__file__, self._folder()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _folder(self) -> str:
        return str(Path(self.ray.__file__).parent)

    def _dead(self) -> str:
        """Return what a process that Ray has started from here is called, if one has died."""
        node = self.ray._private.worker._global_node
        if node is None:
            return next(iter(_dead_children().values()), "")
        dead = node.dead_processes()
        return str(dead[0][0]) if dead else ""

    def _cause_of(self, problem: BaseException) -> str:
        """Return the same; where Ray tells of a loss, what it lost may still be ending."""
        kind = type(problem)
        is_loss = kind.__module__ == "ray.exceptions" and not kind.__name__.startswith(
            "RayTaskError"
        )
        end = time.monotonic() + (SECONDS_TO_END_BY_ITSELF if is_loss else 0.0)
        while not (dead := self._dead()) and time.monotonic() < end:
            time.sleep(0.1)
        # A raylet says good-bye before it ends, which may take it longer.
        return dead or ("raylet" if is_loss and NODE_IS_GONE.search(str(problem)) else "")

    def _watch(self) -> None:
        while not self.ended.wait(LOOK_EVERY_SECONDS):
            if self.sweeper is not None and self.sweeper.poll() is not None:
                self._start_sweeper()
            dead = self._dead()
            # A Ray that is shut down meanwhile has lost nothing.
            if dead and not self.ended.wait(SECONDS_TO_END_BY_ITSELF) and self._dead():
                self.lost = dead
                self._interrupt()
                return

    def _interrupt(self) -> None:
        """Interrupt the run as Ctrl-C would; a command that does not end of it is ended."""
        if self.is_main:
            # Tune takes SIGUSR1 for itself.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        if not self.ended.wait(MOST_SECONDS_TO_SAVE) and _is_command():
            os.write(self.stderr, f"{LostProcessError(self.lost)}\n".encode())
            os._exit(1)


def _dead_children() -> dict[int, str]:
    """Return the names of those of BEGUN_FIRST that have died unnoticed, on Linux."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, words = file.read_text().partition("(")[2].rpartition(")")
            if words.split()[:2] == ["Z", str(os.getpid())] and name in BEGUN_FIRST:
                found[int(file.parent.name)] = name
    return found


def _bury_the_dead() -> None:
    """Let go of what has died in an earlier start: the next one has not lost it."""
    for number in _dead_children():
        with suppress(ChildProcessError):
            os.waitpid(number, 0)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _is_command() -> bool:
    """Tell whether this process is a command: a notebook's must live on."""
    return "rsray_cli.main" in sys.modules
