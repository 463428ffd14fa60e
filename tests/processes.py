"""Ray's processes on this machine, by the titles that Ray gives them."""

from pathlib import Path


def titled(*words):
    """Return the numbers of the processes whose titles hold all of these words, ascending."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if all(word.encode() in title for word in words):
                found.append(int(folder.name))
    return sorted(found)
