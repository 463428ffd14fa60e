"""Which Parquet files there are, and which split each of them says it belongs to."""

import re
from collections.abc import Iterable

from rsray.data.location import Location

# The names that a split goes by, best first.
SPLIT_NAMES = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
SplitNames = dict[str, tuple[str, ...]]
Shards = dict[str, tuple[Location, ...]]  # the files of each split


def find_shards(folder: Location, names: SplitNames = SPLIT_NAMES) -> Shards:
    """Return the Parquet files in a folder that name a split, by split; {} when there are none."""
    return shards_of(find_files(folder, depth=0), folder, names) if folder.is_dir() else {}


def find_files(place: Location, depth: int = 2) -> list[Location]:
    """Return the Parquet file here, or those of this folder and of folders down to `depth`."""
    if place.is_file():
        return [place] if place.name.endswith(".parquet") else []
    if not place.is_dir():
        return []
    files = [place / name for name in place.files() if name.endswith(".parquet")]
    below = place.folders() if depth else []
    return files + [file for name in below for file in find_files(place / name, depth - 1)]


def shards_of(
    files: Iterable[Location], place: Location, names: SplitNames = SPLIT_NAMES
) -> Shards:
    """Return the files of each split, told by the beginning of a file's or a folder's name."""
    by_word: dict[str, list[Location]] = {}
    for file in files:
        below = file.path.removeprefix(place.path).strip("/")
        parts = [part.lower() for part in (below or file.name).split("/")]
        for word in (word for words in names.values() for word in words):
            if any(re.match(rf"{word}(?![a-z])", part) for part in parts):
                by_word.setdefault(word, []).append(file)
                break
    found = {
        split: next((by_word[word] for word in words if word in by_word), None)
        for split, words in names.items()
    }
    return {split: tuple(files) for split, files in found.items() if files}
