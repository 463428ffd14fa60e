"""A process of its own that ends what a run leaves: `python sweeper.py RAY_FOLDER`, on Linux.

It remembers what descends from the Ray processes of the one that started it, and kills what is left
of them when its standard input closes, which happens when the run's process ends in whatever way:
Ray's agents would live on for a minute. It imports nothing of rsray, to take little memory.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

# A process that is just being started may be missed at first.
SWEEP_FOR_SECONDS, QUIET_SECONDS = 5.0, 0.3
LOOK_EVERY_SECONDS = 1.0
# A process by its number and when it started: numbers are used again.
Process = tuple[int, str]


def list_processes() -> dict[int, tuple[int, str]]:
    """Return the parent, and when it started, of every process that is no zombie."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if words[0] != "Z":
                found[int(name)] = (int(words[1]), words[19])
    return found


def descendants_of(parents: set[int], processes: dict[int, tuple[int, str]]) -> set[int]:
    """Return these processes and all that descend from them."""
    found: set[int] = set()
    while parents:
        found |= parents
        parents = {number for number, (parent, _) in processes.items() if parent in parents} - found
    return found


def ray_of(driver: int, ray_folder: str) -> set[Process]:
    """Return the Ray processes that a process has started, and all that descend from them."""
    processes, roots = list_processes(), set()
    for number, (parent, _) in processes.items():
        if parent == driver:
            try:
                command = Path(f"/proc/{number}/cmdline").read_bytes()
            except OSError:
                continue
            # This process has the folder among its words, too.
            if os.fsencode(ray_folder) in command and os.fsencode(__file__) not in command:
                roots.add(number)
    found = descendants_of(roots, processes)
    return {(number, processes[number][1]) for number in found & processes.keys()}


def sweep(known: set[Process]) -> None:
    """Kill these processes, and what descends from them, until none has been seen for a moment."""
    end = time.monotonic() + SWEEP_FOR_SECONDS
    quiet = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < min(end, quiet):
        processes = list_processes()
        alive = {number for number, start in known if processes.get(number, (0, ""))[1] == start}
        for number in descendants_of(alive, processes):
            quiet = time.monotonic() + QUIET_SECONDS
            try:
                os.kill(number, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.05)


def main() -> None:
    """Follow the processes until the run ends, then sweep."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    driver, known = os.getppid(), set[Process]()
    while os.getppid() == driver:
        known |= ray_of(driver, sys.argv[1])
        if select.select([0], [], [], LOOK_EVERY_SECONDS)[0]:
            break
    sweep(known)


if __name__ == "__main__":
    main()
