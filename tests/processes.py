"""The processes that this one has started, and theirs, by the titles that Ray gives them."""

import os
from pathlib import Path

from rsray.distributed.sweeper import descendants_of, list_processes


def titled(*words):
    """Return the numbers of the processes whose titles hold all of these words, ascending."""
    found = []
    for number in descendants_of({os.getpid()}, list_processes()):
        try:
            title = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if all(word.encode() in title for word in words):
            found.append(number)
    return sorted(found)
