"""Certification logs as Cohen et al. (ICML 2019) publish them: read, recognised and written."""

# Tab-separated columns: idx label predict radius correct time; idx is the position in the split,
# radius is l2 in pixels of [0, 1]. Some authors add columns of their own. A file that is named
# .csv has commas, and radii of as many decimals as its figures need.

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from rsray import storage
from rsray.core.radius import LARGEST_RADIUS, round_down
from rsray.errors import UserError
from rsray.results.certificates import Certificates, Parameters
from rsray.storage import PathLike, Place
from rsray.storage.address import address_beside, printable_address
from rsray.storage.records import from_json, read_as

HEADER = ("idx", "label", "predict", "radius", "correct", "time")
# Without these no certificate can be read.
NEEDED = HEADER[:5]
# What a log has no column for: it stands in LOG.json beside one that rsray wrote.
FACTS = (
    "sigma", "n", "alpha", "n0", "bound", "noise", "dataset", "split", "image_shape", "sampling",
    "tolerance", "skipped_images", "inverse_temperature", "label_column", "classes",
)  # fmt: skip
# There, of which log it is; in metadata, the name of that file.
DIGEST, TOLD_BY = "log_sha256", "told_by"
# "sigma_0.25", "noise0.5": a word for the noise level, then a decimal number; not that of training.
SIGMA = r"(?<![a-z])(?<!train[-_]){word}[-_=]?(\d+\.\d+)(?!\d|\.\d)"
# The noise of certification comes before that of training: both stand in
# "noise_0.12/test/sigma_0.50", where only the last folders speak of the log.
SIGMA_WORDS, SIGMA_PARTS = ("sigma", "noise"), 3
CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")
HEADER_BYTES = 4096
# Of written radii, by what separates the columns.
DECIMALS = {"\t": 3, ",": 9}
MOST_IMAGES = 2**31


class LogRow(NamedTuple):
    """One line of a log."""

    image: int
    label: int
    prediction: int
    radius: float
    correct: bool
    seconds: float | None


def is_log(path: PathLike) -> bool:
    """Return whether a file begins with the header of a certification or prediction log."""
    with Place.of(path).open() as stream:
        first = bytes(stream.read(HEADER_BYTES)).removeprefix(b"\xef\xbb\xbf").lstrip()
    line = first.partition(b"\n")[0].decode("utf-8", errors="replace")
    cells = _cells(line, _separator(path))
    return cells[0] == HEADER[0] and "predict" in cells


def read_log(path: PathLike, *, name: str | None = None) -> Certificates:
    """Return a published log as certificates; what logs do not tell is None, NaN or -1.

    What LOG.json beside it says is known; else sigma comes from the path where it says sigma.
    Raises UserError that names the file and the line, also for a log of predictions, which hold
    within no radius.
    """
    content = storage.read_file(path)
    rows = _parse(path, content)
    if not rows:
        raise UserError(f"{path} holds no certificate")
    columns = dict(zip(LogRow._fields, zip(*sorted(rows), strict=True), strict=True))
    # rsray's own logs have no times of single images, and say 0.
    known_seconds = [each for each in columns.pop("seconds") if each]
    metadata = {
        "format": "cohen",
        "sigma": sigma_in(printable_address(os.fspath(path))),
        **dict.fromkeys(("n0", "n", "alpha", "bound")),
        "seconds": math.fsum(known_seconds) if len(known_seconds) == len(rows) else None,
        **_facts_beside(path, content),
    }
    index = np.array(columns.pop("image"))
    skipped = np.isin(index, metadata.pop("skipped_images", []))
    name = name or str(path)
    return Certificates.of_log(name, metadata, index=index, skipped=skipped, **columns)


def check_target(path: PathLike) -> None:
    """Raise UserError where a log and its LOG.json would be written over something else."""
    log, beside = Place.of(path), Place.of(address_beside(Place.of(path).uri, ".json"))
    is_other = beside.is_file() and DIGEST.encode() not in beside.read_bytes()
    if is_other or (log.is_file() and not is_log(log)):
        raise UserError(f"{beside if is_other else log} holds something else: use another name")


def write_log(path: PathLike, certificates: Certificates) -> None:
    """Write certificates as a log, complete or not at all.

    Radii are rounded down to DECIMALS: a printed certificate never claims more than was proved.
    An image that failed or was skipped abstains, so that a reader's ACR counts it 0. The time of
    single images is not known and written as 0. Raises UserError for a run that decided a few radii
    alone, whose ACR a reader would take, and for a failed image whose label is not known.
    """
    if certificates.at_radius:
        asked = ", ".join(str(radius) for radius in certificates.at_radius)
        raise UserError(
            f"{certificates.name} decided radius {asked} alone (at-radius): no log can say so"
        )
    if not certificates.has_labels:
        raise UserError(f"{certificates.name} does not hold the classes: no log can name them")
    separator = _separator(path)
    decimals = DECIMALS[separator]
    columns = (certificates.index, certificates.label, certificates.prediction)
    radii = round_down(certificates.radius, decimals)
    rows = {row[0]: row for row in zip(*columns, radii, certificates.correct, strict=True)}
    labels = certificates.failed_labels
    if lacking := sorted(set(certificates.failed) - set(labels)):
        raise UserError(
            f"{certificates.name} does not hold the labels of images that failed "
            f"({', '.join(map(str, lacking[:10]))}): no log can name them"
        )
    rows |= {index: (index, label, -1, 0.0, False) for index, label in labels.items()}
    lines = [HEADER, *(
        (str(i), str(y), str(c), f"{r:.{decimals}f}", f"{ok:d}", "0:00:00")
        for i, y, c, r, ok in (rows[index] for index in sorted(rows))
    )]  # fmt: skip
    storage.write_file(path, "".join(f"{separator.join(line)}\n" for line in lines).encode())


def write_facts(path: PathLike, certificates: Certificates) -> str:
    """Write LOG.json, which says of a log what its columns cannot; returns its address."""
    skipped = certificates.index[certificates.skipped].tolist() or None
    told = {name: certificates.parameter(name) for name in FACTS} | {"skipped_images": skipped}
    known = {name: value for name, value in told.items() if value is not None}
    decimals = DECIMALS[_separator(path)]
    known |= {
        "radii": f"rounded down to {decimals} decimals",
        DIGEST: _digest(storage.read_file(path)),
    }
    beside = address_beside(Place.of(path).uri, ".json")
    storage.write_file(beside, (json.dumps(known, indent=2) + "\n").encode())
    return beside


def _facts_beside(log: PathLike, content: bytes) -> dict[str, Any]:
    """Return what LOG.json says of exactly this log; nothing where it is of another, or not there.

    UserError for one that is no JSON, or says what no certification has.
    """
    beside = Place.of(address_beside(Place.of(log).uri, ".json"))
    told = from_json(beside.read_bytes(), str(beside), finite=False) if beside.is_file() else None
    if not isinstance(told, dict) or told.get(DIGEST) != _digest(content):
        return {}
    facts = read_as(Parameters, told, str(beside)).model_dump(include={*FACTS}, exclude_none=True)
    return {**facts, TOLD_BY: beside.name}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sigma_in(path: str) -> float | None:
    """Return the noise level that a path tells in words ("sigma_0.25", "noise0.5/log"), or None.

    A number without such a word may be a learning rate or a version, so it says nothing.
    """
    for word in SIGMA_WORDS:
        for part in reversed(PurePosixPath(path).parts[-SIGMA_PARTS:]):
            found = re.findall(SIGMA.format(word=word), part, re.IGNORECASE)
            if found:
                return float(found[-1])
    return None


def _parse(path: PathLike, content: bytes) -> list[LogRow]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a certification log: it is not text") from error
    separator = _separator(path)
    names: Sequence[str] = HEADER
    rows: dict[int, LogRow] = {}
    for number, line in enumerate(lines, start=1):
        cells = _cells(line, separator)
        if not any(cells):
            continue
        if not rows and cells[0] == HEADER[0]:
            names = _checked_header(path, cells)
            continue
        try:
            row = _row(names, cells)
            if row.image in rows:
                raise ValueError(f"image {row.image} occurs twice")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        rows[row.image] = row
    return list(rows.values())


def _separator(path: PathLike) -> str:
    """Return what separates the columns of a log of this name."""
    return "," if printable_address(os.fspath(path)).endswith(".csv") else "\t"


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in line.split(separator)]


def _checked_header(path: PathLike, names: list[str]) -> list[str]:
    """Return the column names; UserError where certificates cannot be read from such columns."""
    missing = [name for name in NEEDED if name not in names]
    if "radius" in missing and "predict" in names:
        raise UserError(
            f"{path} is a log of predictions (PREDICT: no column radius), not of certificates"
        )
    if missing or len(set(names)) < len(names):
        raise UserError(
            f"{path} is not a certification log: its columns are {', '.join(names)}; "
            f"expected {', '.join(HEADER)}"
        )
    return names


def _row(names: Sequence[str], cells: list[str]) -> LogRow:
    """Return the row of one line's cells; raises ValueError that says what is wrong."""
    if len(cells) != len(names):
        expected = f"{len(names)}: {', '.join(names)}"
        raise ValueError(f"{len(cells)} tab-separated fields, expected {expected}")
    told = dict(zip(names, cells, strict=True))
    index, label, prediction = (int(told[name]) for name in NEEDED[:3])
    radius, is_correct = float(told["radius"]), told["correct"] == "1"
    if told["correct"] not in ("0", "1") or is_correct != (prediction == label):
        raise ValueError(
            f"correct is {told['correct']!r} with label {label} and prediction {prediction}"
        )
    if not 0 <= radius <= LARGEST_RADIUS or (prediction < 0 and radius > 0):
        raise ValueError(f"radius {told['radius']} with prediction {prediction}")
    if not (0 <= index < MOST_IMAGES and 0 <= label < MOST_IMAGES > prediction >= -1):
        raise ValueError(
            f"index {told['idx']}, label {told['label']}, prediction {told['predict']}"
        )
    return LogRow(index, label, prediction, radius, is_correct, _seconds(told))


def _seconds(told: Mapping[str, str]) -> float | None:
    """Return a duration in seconds from `15.4` or `0:00:02.9`, as Python prints a timedelta."""
    if "time" not in told:
        return None
    clock = CLOCK.fullmatch(told["time"])
    if clock is None:
        return float(told["time"])
    days, hours, minutes, seconds = clock.groups()
    return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
