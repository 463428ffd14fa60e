"""Tab-separated certification logs, as Cohen et al. (ICML 2019) publish them."""

# Columns: idx label predict radius correct time; idx is the position in the split, radius is l2.

import math
import os
import re
from typing import NamedTuple

import numpy as np

from rsray import storage
from rsray.errors import UserError
from rsray.results.certificates import Certificates
from rsray.storage import PathLike
from rsray.storage.address import printable_address

HEADER = ("idx", "label", "predict", "radius", "correct", "time")
# A decimal number as in "macer-0.25", "sigma_0.50", "noise0.5"; one after a word wins.
SIGMA = re.compile(r"(sigma|noise)?[-_=]?(?<![\d.])(\d+\.\d+)(?!\d|\.\d)", re.IGNORECASE)
CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")


class Row(NamedTuple):
    """One line of a log."""

    image: int
    label: int
    prediction: int
    radius: float
    correct: bool
    seconds: float


def read_log(path: PathLike, *, name: str | None = None) -> Certificates:
    """Return a published log as certificates; what logs do not tell is None, NaN or -1.

    sigma comes from the file's name where it is there. Raises UserError that names the file and
    the line.
    """
    rows = _parse(path, storage.read_file(path))
    if not rows:
        raise UserError(f"{path} holds no certificate")
    index, label, prediction, radius, correct, seconds = zip(*sorted(rows), strict=True)
    unknown = np.full(len(rows), -1, dtype=np.int64)
    metadata = {
        "format": "cohen",
        "sigma": sigma_in(os.path.basename(printable_address(os.fspath(path)))),
        **dict.fromkeys(("n0", "n", "alpha", "bound")),
        "seconds": math.fsum(seconds),
    }
    return Certificates(
        name=name or str(path),
        metadata=metadata,
        index=np.array(index, dtype=np.int64),
        label=np.array(label, dtype=np.int32),
        prediction=np.array(prediction, dtype=np.int32),
        radius=np.array(radius, dtype=np.float64),
        correct=np.array(correct, dtype=np.bool_),
        p_a_lower=np.full(len(rows), np.nan),
        p_b_upper=np.full(len(rows), np.nan),
        count_a=unknown,
        n0=unknown,
        n=unknown,
        skipped=np.zeros(len(rows), dtype=np.bool_),
    )


def write_log(path: PathLike, certificates: Certificates) -> None:
    """Write certificates as a log, complete or not at all.

    Radii are rounded down to 3 decimals: a printed certificate never claims more than was proved.
    The time of single images is not known and written as 0. Raises UserError for a run that
    decided a few radii alone: whoever reads a log takes its ACR.
    """
    if certificates.at_radius:
        asked = ", ".join(f"{radius:g}" for radius in certificates.at_radius)
        raise UserError(
            f"{certificates.name} decided radius {asked} alone (at-radius): no log can say so"
        )
    columns = (certificates.index, certificates.label, certificates.prediction)
    numbers = zip(*columns, round_down(certificates.radius), certificates.correct, strict=True)
    lines = [f"{i}\t{y}\t{c}\t{r:.3f}\t{ok:d}\t0:00:00" for i, y, c, r, ok in numbers]
    storage.write_file(path, "\n".join(["\t".join(HEADER), *lines, ""]).encode())


def round_down(radius: np.ndarray, decimals: int = 3) -> np.ndarray:
    """Return the largest numbers of so many decimals that, as float64, are not above the radii."""
    scale = 10**decimals
    # rint and a comparison, not floor: 0.953 * 1000 is 952.99..., yet 0.953 is its own rounding.
    nearest = np.rint(np.asarray(radius, dtype=np.float64) * scale)
    rounded: np.ndarray = (nearest - (nearest / scale > radius)) / scale
    return rounded


def sigma_in(file_name: str) -> float | None:
    """Return the noise level that a file name tells ("macer-0.25.tsv"), or None."""
    found = list(SIGMA.finditer(file_name))
    named = [match for match in found if match[1]]
    return float((named or found)[-1][2]) if found else None


def _parse(path: PathLike, content: bytes) -> list[Row]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a certification log: it is not text") from error
    rows: dict[int, Row] = {}
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells) or (not rows and cells[0] == HEADER[0]):
            continue
        try:
            row = _row(cells)
            if row.image in rows:
                raise ValueError(f"image {row.image} occurs twice")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        rows[row.image] = row
    return list(rows.values())


def _row(cells: list[str]) -> Row:
    """Return the row of one line's cells; raises ValueError that says what is wrong."""
    if len(cells) != len(HEADER):
        expected = f"{len(HEADER)}: {', '.join(HEADER)}"
        raise ValueError(f"{len(cells)} tab-separated fields, expected {expected}")
    index, label, prediction = (int(cell) for cell in cells[:3])
    radius = float(cells[3])
    if cells[4] not in ("0", "1") or (cells[4] == "1") != (prediction == label):
        raise ValueError(f"correct is {cells[4]!r} with label {label} and prediction {prediction}")
    if not (math.isfinite(radius) and radius >= 0) or (prediction < 0 and radius > 0):
        raise ValueError(f"radius {cells[3]} with prediction {prediction}")
    if index < 0 or label < 0 or prediction < -1:
        raise ValueError(f"negative index {index}, label {label} or prediction {prediction}")
    return Row(index, label, prediction, radius, cells[4] == "1", _seconds(cells[5]))


def _seconds(text: str) -> float:
    """Return a duration in seconds from `15.4` or `0:00:02.9`, as Python prints a timedelta."""
    clock = CLOCK.fullmatch(text)
    if clock is None:
        return float(text)
    days, hours, minutes, seconds = clock.groups()
    return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
