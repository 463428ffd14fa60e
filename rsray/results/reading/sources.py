"""What the paths of a report stand for: results, folders full of them, and logs of other code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from rsray.core.bounds.randomized_clopper_pearson import RandomizedClopperPearson
from rsray.core.bounds.reused_counts import ReusedCounts
from rsray.core.radius import largest_radius, round_down
from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.results.certificates import Certificates
from rsray.results.compare import UNFINISHED, cert_folder, load, tell_apart
from rsray.results.reading import macer_mat
from rsray.results.reading.cohen import TOLD_BY, is_log, sigma_in
from rsray.storage import PathLike, Place
from rsray.storage.address import printable_address

# Folders below a folder that is given; and the files of a result's own that are none themselves.
DEEPEST = 8
FOREIGN = ("cohen", macer_mat.FORMAT)
# The last folders of a path that may name a data set.
FOLDERS_READ = 3
# Bounds whose radii may be larger than any of Clopper-Pearson's by n draws.
BEYOND_CLOPPER_PEARSON = (RandomizedClopperPearson.name, ReusedCounts.name)
# Radii of published logs are rounded to three digits, up or down.
PRINTED_DIGITS = 0.005


@dataclass(frozen=True)
class LogFacts:
    """What the user says of published logs, which do not say it themselves; None is unknown."""

    sigma: float | None = None
    n: int | None = None
    alpha: float | None = None
    dataset: str | None = None
    # Of .mat files: which images.
    start: int | None = None
    skip: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What is said of the certification."""
        told = {name: getattr(self, name) for name in ("sigma", "n", "alpha", "dataset")}
        return {name: value for name, value in told.items() if value is not None}

    def complete(self, result: Certificates) -> Certificates:
        """Return a log with what is said of it; UserError where it says or shows otherwise."""
        for name, value in self.parameters.items():
            known = result.metadata.get(name)
            if known not in (None, value):
                said = result.metadata.get(TOLD_BY, "its path")
                raise UserError(f"{result.name}: --log-{name} is {value}, {said} says {known}")
        result = replace(result, metadata={**result.metadata, **self.parameters})
        sigma, n, alpha = (result.metadata.get(name) for name in ("sigma", "n", "alpha"))
        is_beyond = result.metadata.get("bound") in BEYOND_CLOPPER_PEARSON
        if sigma is None or n is None or alpha is None or is_beyond:
            return result
        seen, largest = float(result.radius.max()), largest_radius(sigma, n, alpha)
        if seen > largest * (1 + PRINTED_DIGITS) + PRINTED_DIGITS:
            raise UserError(
                f"{result.name}: a radius is {_four_digits(seen)}, but with sigma {sigma:g}, n {n} "
                f"and alpha {alpha:g} none is above {_four_digits(largest)}: they are not its own"
            )
        return result


def _four_digits(radius: float) -> str:
    return f"{float(round_down(radius, 4)):g}"


@dataclass
class Found:
    """Results, where each of them lies, and what was left out of the folders that were given."""

    results: list[Certificates] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, results: Sequence[Certificates], place: str) -> None:
        """Add what one file or folder holds."""
        self.results += results
        self.places += [place] * len(results)


def load_results(
    paths: Sequence[PathLike], facts: LogFacts | None = None, *, labels: Sequence[str] = ()
) -> Found:
    """Return the results at several paths, in their order; a folder stands for all that is in it.

    They are named by the labels, or so that they can be told apart. Raises UserError unless there
    is a label for each, or none, and for facts of logs where there are none.
    """
    facts, found = facts or LogFacts(), Found()
    for path in paths:
        inside = _members(Place.of(path))
        if not inside:
            found.add(_load(path, facts), os.fspath(path))
        for place in inside:
            _add_member(found, place, Place.of(path), facts)
        if inside and not found.results:
            raise UserError(f"{path} holds no result that can be read: {'; '.join(found.left_out)}")
    if labels and len(labels) != len(found.results):
        raise UserError(f"{len(labels)} labels were given for {len(found.results)} results")
    if facts != LogFacts() and not any(_is_foreign(each) for each in found.results):
        raise UserError("--log-... says something of logs, but no log was given")
    names = list(labels) or [result.name for result in found.results]
    places = [printable_address(place) for place in found.places]
    found.results = tell_apart(found.results, names, places)
    return found


def _is_foreign(result: Certificates) -> bool:
    return result.metadata.get("format") in FOREIGN


def _add_member(found: Found, place: Place, folder: Place, facts: LogFacts) -> None:
    """Add a result that lies in a folder; one that cannot be read is named and left out."""
    name = place.below(folder)
    for suffix in (".tsv", ".csv", ".mat"):
        name = name.removesuffix(suffix)
    try:
        loaded = _load(place, facts)
    except UserError as problem:
        found.left_out.append(f"left out: {problem}")
        return
    suffixes = ["", " (soft)"] if len(loaded) > 1 else [""]
    named = zip(loaded, suffixes, strict=True)
    found.add([replace(each, name=name + end) for each, end in named], place.uri)


def _load(path: PathLike, facts: LogFacts) -> list[Certificates]:
    address = printable_address(os.fspath(path))
    if not address.endswith(".mat"):
        result = load(path)
        return [_told(result, address, facts) if _is_foreign(result) else result]
    if facts.start is None or facts.skip is None:
        raise UserError(
            f"{address} does not say which images its radii are of: give --log-start and "
            "--log-skip (500 and 1 for MACER's CIFAR-10)"
        )
    name = os.path.basename(address).removesuffix(".mat")
    read = macer_mat.read_mat(path, start=facts.start, skip=facts.skip, name=name)
    return [_told(each, address, facts) for each in read]


def _told(result: Certificates, address: str, facts: LogFacts) -> Certificates:
    """Return a log with what its path and the user say of it."""
    inferred = {"sigma": sigma_in(address), "dataset": _dataset_in(address)}
    known = {key: value for key, value in result.metadata.items() if value is not None}
    return facts.complete(replace(result, metadata={**result.metadata, **inferred, **known}))


def _dataset_in(address: str) -> str | None:
    """Return the data set that one of the last folders of a path is called after, or None."""
    folders = PurePosixPath(address).parts[-1 - FOLDERS_READ : -1]
    named = [name for name in folders if name.lower() in DATASETS]
    return named[-1].lower() if named else None


def _members(folder: Place, depth: int = 0) -> list[Place]:
    """Return the results in a folder and below it, sorted; none where it is a result or a file."""
    if not folder.is_dir() or (depth == 0 and _is_one(folder)):
        return []
    if _is_one(folder):
        return [folder]
    files = [folder / name for name in folder.files()]
    files = [file for file in files if file.name.endswith((".tsv", ".mat")) or is_log(file)]
    below = [folder / name for name in folder.folders()] if depth < DEEPEST else []
    return files + [place for each in below for place in _members(each, depth + 1)]


def _is_one(folder: Place) -> bool:
    """Tell whether a folder is a CERT, a TUNE or what a run left there."""
    return cert_folder(folder) is not None or any(name in UNFINISHED for name in folder.names())
