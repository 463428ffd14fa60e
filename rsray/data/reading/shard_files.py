"""Which shards (Parquet or tar files) there are, and which split each says it belongs to."""

import logging
import re
from collections.abc import Iterable, Sequence

from rsray.errors import UserError
from rsray.storage import Place

log = logging.getLogger(__name__)
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

    The word may stand further on in it: imagenet1k-train-0000.tar. Raises UserError where the files
    of one word lie in folders that may be data sets of their own, such as Hugging Face's configs.
    """
    by_word: dict[str, list[Place]] = {}
    above: dict[str, str] = {}
    for file in files:
        path = file.below(place) or file.name
        for word in (word for words in names.values() for word in words):
            if found_at := re.search(rf"(?<![a-z]){word}(?![a-z])", path.lower()):
                folder = path[: found_at.start()].rpartition("/")[0]
                if (other := above.setdefault(word, folder)) != folder:
                    raise UserError(
                        f"{place} has {word} files in {other or '.'} and in {folder or '.'}: two "
                        f"data sets? Give --data-root {place / (other or folder)}, or move them "
                        "into one folder"
                    )
                by_word.setdefault(word, []).append(file)
                break
    found = {
        split: next((by_word[word] for word in words if word in by_word), None)
        for split, words in names.items()
    }
    return {split: tuple(files) for split, files in found.items() if files}


def check_sets(files: Sequence[Place]) -> None:
    """Warn where some of the files that number themselves, 00000-of-00003, are not here.

    Raises UserError where one set lies here twice, such as in other numbers of files: each image
    would count twice.
    """
    sets: dict[str, dict[tuple[int, int], str]] = {}
    for file in files:
        told = re.fullmatch(r"(.+?)(?:-(\d+)-of-(\d+)\b[^/]*)?\.\w+", str(file))
        stem, number, total = told.groups("0") if told else (str(file), "0", "0")
        here = sets.setdefault(stem, {})
        other = here.setdefault((int(total), int(number)), file.name)
        if other != file.name or len({total for total, _ in here}) > 1:
            raise UserError(
                f"{file} is of another writing of {next(iter(here.values()))}: images would count "
                "twice; keep the files of one"
            )
    for stem, here in sets.items():
        if len(here) < (whole := max(here)[0]):
            log.warning("%s: %d of %d files are missing", stem, whole - len(here), whole)
