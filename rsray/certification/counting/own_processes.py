"""Counting on one machine without Ray: this process begins at once, others join it.

Ray takes 20 to 40 seconds to the first count, and gives one machine nothing in return. Each process
does what an actor does, by the same code, so the counts are the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait

import torch

from rsray.certification.counting.answers import Answer
from rsray.certification.counting.counter import Counter, CounterSettings
from rsray.certification.work_items import WorkItem
from rsray.errors import UserError
from rsray.storage import one_line

# Work of one process that another one is worth its imports for.
SECONDS_WORTH_ANOTHER = 8.0
# A task is answered as a whole, and the progress is told between two tasks. In a run of over a
# minute they are longer: this process takes a millisecond or two for the answer to each.
TASK_SECONDS, LONG_RUNS_TASK_SECONDS = 0.5, 2.5
LONG_RUN_SECONDS = 60.0
# The next task waits at the process while this one counts.
TASKS_IN_FLIGHT = 2
# Of processes as they start, one after the other.
GIVE_UP_AFTER_DEATHS = 5


class OwnProcesses:
    """A fleet of this process and others on its machine; a fleet for CertificationRun."""

    def __init__(self, settings: CounterSettings, processes: int, seconds: float) -> None:
        """Plan for `seconds` of work of one process.

        A factory of the user's own may end the process that runs it: then this one only watches.
        """
        self.settings, self.seconds = settings, seconds
        self.counts_itself = not settings.source.is_users_code
        is_worth_it = seconds > SECONDS_WORTH_ANOTHER
        self.others = processes - self.counts_itself if is_worth_it else 1 - self.counts_itself

    @property
    def task_seconds(self) -> float:
        """The longest that a task should take."""
        is_long = self.seconds > LONG_RUN_SECONDS * self.largest
        return LONG_RUNS_TASK_SECONDS if is_long else TASK_SECONDS

    @property
    def largest(self) -> int:
        """How many processes count."""
        return self.others + self.counts_itself

    def answers(self, tasks: Iterator[list[WorkItem]], patience: float) -> Iterator[Answer]:
        """Yield an answer for each task, as they are ready; none for one whose process died.

        Raises UserError when the processes die as they start, or nothing is answered for `patience`
        seconds.
        """
        others: list[_Other] = []
        threads_before = torch.get_num_threads()
        try:
            # One by one: an interrupt in between ends those that have started.
            for _ in range(self.others):
                others.append(_Other(self.settings))
            counter = Counter(self.settings) if self.counts_itself else None
            yield from _work(_Queue(tasks), counter, others, patience)
        finally:
            torch.set_num_threads(threads_before)
            for other in others:
                other.end()


class _Queue:
    """Tasks that are made as they are taken: a long run has very many."""

    def __init__(self, tasks: Iterator[list[WorkItem]]) -> None:
        self.tasks = tasks
        # Made already: those that were put back, and one more while there is any.
        self.coming = deque(islice(tasks, 1))

    def put_back(self, tasks: list[list[WorkItem]]) -> None:
        """Have these taken next."""
        self.coming.extendleft(reversed(tasks))

    def __bool__(self) -> bool:
        return bool(self.coming)

    def take(self) -> list[WorkItem]:
        """Return the next task, of which there is one."""
        self.coming.extend(islice(self.tasks, 1))
        return self.coming.popleft()


def _work(
    queue: _Queue, counter: Counter | None, others: list[_Other], patience: float
) -> Iterator[Answer]:
    deaths = 0
    while queue or any(other.given for other in others):
        for other in others:
            while queue and other.is_ready and other.give(queue):
                pass
        is_busy = counter is not None and bool(queue)
        if counter is not None and queue:
            yield counter.count(queue.take())
        speaking = wait([other.connection for other in others], 0.0 if is_busy else patience)
        ready = [other for other in others if other.connection in speaking]
        if not (ready or is_busy):
            raise UserError(
                f"no process has answered for {patience / 60:,.0f} minutes: see that the data can "
                "be read, and run the same command again"
            )
        for other in ready:
            was_started = other.is_started
            try:
                answer = other.receive()
            except (EOFError, OSError):
                # The first of its tasks may have killed it: that one is lost.
                queue.put_back(other.given[1:])
                deaths, how = 0 if was_started else deaths + 1, other.end()
                if deaths >= GIVE_UP_AFTER_DEATHS:
                    raise UserError(f"counting processes die as they start: {how}") from None
                other.start()
                continue
            if answer is not None:
                yield answer


class _Other:
    """Another process that counts. It asks for its settings once it has imported what it needs."""

    def __init__(self, settings: CounterSettings) -> None:
        self.settings = settings
        self.start()

    def start(self) -> None:
        """Start the process, anew where it died."""
        self.is_started = self.has_settings = False
        self.given: list[list[WorkItem]] = []
        self.connection, theirs = Pipe()
        with theirs:
            call = f"serve({theirs.fileno()}, {os.getpid()})"
            command = f"from rsray.certification.counting.own_processes import serve; {call}"
            # No package of the current folder comes before the installed ones.
            path = os.pathsep.join(path for path in sys.path if path)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", command],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for the process that writes.
                process_group=0,
            )

    def receive(self) -> Answer | None:
        """Return the answer to its task, or None where it has only come so far in its start."""
        answer: Answer | None = self.connection.recv()
        if self.is_started:
            del self.given[0]
        if self.has_settings:
            self.is_started = True
        else:
            self.connection.send(self.settings)
            self.has_settings = True
        return answer

    @property
    def is_ready(self) -> bool:
        """Whether it takes another task."""
        return self.is_started and len(self.given) < TASKS_IN_FLIGHT

    def give(self, queue: _Queue) -> bool:
        """Let it count the next task; False, and the task stays, where it has died.

        What it has answered before is still to be received.
        """
        task = queue.take()
        try:
            self.connection.send(task)
        except OSError:
            queue.put_back([task])
            return False
        self.given.append(task)
        return True

    def end(self) -> str:
        """End it at once, and return how it ended."""
        self.connection.close()
        self.process.kill()
        return f"exit status {self.process.wait()}"


def serve(descriptor: int, parent: int) -> None:
    """Count what the process at the other end of a socket asks for, until it is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    with suppress(EOFError, OSError):
        connection.send(None)
        settings: CounterSettings = connection.recv()
        try:
            counter = Counter(settings)
        except Exception as problem:
            nothing = settings.plan.counts_schema.empty_table()
            connection.send(Answer(nothing, "", stop=one_line(problem)))
            return
        connection.send(None)
        while True:
            connection.send(counter.count(connection.recv()))


def _end_with(parent: int) -> None:
    """End this process, in the middle of a task too, when its parent is no more."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
