"""Which shards (Parquet or tar files) there are, and which split each says it belongs to."""

import re
from collections.abc import Iterable

from rsray.storage import Place

# The names that a split goes by, best first.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "validation", "valid"),
}
PARQUET_FILES, TAR_FILES = ".parquet", ".tar"
SplitNames = dict[str, tuple[str, ...]]
# The files of each split
Shards = dict[str, tuple[Place, ...]]


def find_shards(
    folder: Place, names: SplitNames = SPLIT_NAMES, suffix: str = PARQUET_FILES
) -> Shards:
    """Return the files in a folder that name a split, by split; {} when there are none."""
    if not folder.is_dir():
        return {}
    return shards_of(find_files(folder, depth=0, suffix=suffix), folder, names)


def find_files(place: Place, depth: int = 2, suffix: str = PARQUET_FILES) -> list[Place]:
    """Return the file here, or the files of this folder and of folders down to `depth`."""
    if place.is_file():
        return [place] if place.name.endswith(suffix) else []
    if not place.is_dir():
        return []
    files = [place / name for name in place.files() if name.endswith(suffix)]
    below = place.folders() if depth else []
    return files + [file for name in below for file in find_files(place / name, depth - 1, suffix)]


def shards_of(files: Iterable[Place], place: Place, names: SplitNames = SPLIT_NAMES) -> Shards:
    """Return the files of each split, told by a word in a file's or a folder's name.

    The word may stand further on in it: imagenet1k-train-0000.tar.
    """
    by_word: dict[str, list[Place]] = {}
    for file in files:
        below = file.below(place)
        parts = [part.lower() for part in (below or file.name).split("/")]
        for word in (word for words in names.values() for word in words):
            if any(re.search(rf"(?<![a-z]){word}(?![a-z])", part) for part in parts):
                by_word.setdefault(word, []).append(file)
                break
    found = {
        split: next((by_word[word] for word in words if word in by_word), None)
        for split, words in names.items()
    }
    return {split: tuple(files) for split, files in found.items() if files}
