"""Two results on the same images: whether they differ by more than the choice of images explains.

Each image is a pair of outcomes, so what is hard about it cancels out: a paired comparison tells
results apart from far fewer images than two separate standard errors would.
"""

# Shapes: N common images, R radii.
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rsray.core.radius import round_down
from rsray.errors import UserError, printable
from rsray.results.certificates import Certificates
from rsray.results.compare import common_indices, restrict, unlike, unlike_images
from rsray.results.formats import UNKNOWN, Table
from rsray.results.reading.cohen import DECIMALS

LEVEL, POWER = 0.05, 0.8
# What is smaller is not told apart in print.
SMALLEST_P = 1e-99
# Beside what is rounded in print, what differs by less is the same.
SAME = 1e-12
NOTES = (
    "difference: ACR of the result minus that of the one it is compared with, on the "
    "images that both have; from, to: its 95 % confidence interval over the choice of images, not "
    "over trainings; radii that differ by no more than a log has rounded count as equal",
    "sign test: of the images whose radii differ; at a radius: images certified by one "
    "alone, + by the result and - by the other, with McNemar's exact p-value",
    "images needed: to tell such a difference apart at the 5 % level, four times of five",
    "p-values are not corrected for the number of comparisons",
)


@dataclass(frozen=True)
class Discordant:
    """At one radius: images that only one of two results certifies, and McNemar's exact p-value."""

    gained: int
    lost: int

    @property
    def p_value(self) -> float:
        """How likely so unequal numbers are when both results certify as much."""
        return _binomial(self.gained, self.lost)


@dataclass(frozen=True)
class Pair:
    """A result against another on the images that both have; ACR is l2 in pixels of [0, 1].

    Without ACR (difference None) where one of them decided a few radii alone.
    """

    name: str
    against: str
    num_images: int
    difference: float | None
    interval: tuple[float, float] | None
    larger: int | None
    smaller: int | None
    images_needed: int | None
    # None at a radius that one of them did not decide.
    at: tuple[Discordant | None, ...]

    @property
    def sign_p(self) -> float | None:
        """P-value of the sign test: of the images whose radii differ, half are larger."""
        if self.larger is None or self.smaller is None:
            return None
        return _binomial(self.larger, self.smaller)

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval of the difference leaves 0 out."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def compare_pair(result: Certificates, against: Certificates, radii: np.ndarray) -> Pair:
    """Return how a result differs from another at the radii [R], on the images that both have.

    Radii that differ by no more than a log has rounded are equal. UserError where they share no
    image, or where split, labels, classes or shapes say that an index is not the same image.
    """
    splits = unlike("split", ((each.name, each.parameter("split")) for each in (against, result)))
    if signs := [*splits, *unlike_images([against, result])]:
        raise UserError(f"these cannot be paired: {signs[0]}")
    shared = common_indices([against, result])
    first, second = restrict([against, result], shared)
    (radius_a, right_a), (radius_b, right_b) = _by_index(first), _by_index(second)
    has_acr = not (first.at_radius or second.at_radius)
    gain_N = radius_b * right_b - radius_a * right_a
    gain_N[np.abs(gain_N) <= SAME + max(_rounding(radius_a), _rounding(radius_b))] = 0.0
    return Pair(
        name=printable(result.name),
        against=printable(against.name),
        num_images=len(shared),
        difference=float(gain_N.mean()) if has_acr else None,
        interval=_interval(gain_N) if has_acr else None,
        larger=int(np.sum(gain_N > 0)) if has_acr else None,
        smaller=int(np.sum(gain_N < 0)) if has_acr else None,
        images_needed=_images_needed(gain_N) if has_acr else None,
        at=tuple(
            _discordant(right_a & (radius_a >= r), right_b & (radius_b >= r))
            if all(not each.at_radius or r in each.at_radius for each in (first, second))
            else None
            for r in radii
        ),
    )


def _by_index(result: Certificates) -> tuple[np.ndarray, np.ndarray]:
    """Return radius and correctness [N] in the order of the indices; a failed image has none."""
    index = np.concatenate([result.index, np.array(list(result.failed), dtype=np.int64)])
    radius, correct = result.outcomes
    order = np.argsort(index, kind="stable")
    return radius[order], correct[order].astype(bool)


def _rounding(radius_N: np.ndarray) -> float:
    """Return how far radii may be from those that were proved: 0 where they are not rounded."""
    is_rounded = (np.array_equal(radius_N, np.round(radius_N, d)) for d in DECIMALS.values())
    known = zip(DECIMALS.values(), is_rounded, strict=True)
    return next((10.0**-decimals for decimals, is_so in known if is_so), 0.0)


def _interval(gain_N: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean, by Student's t; None for one image."""
    if len(gain_N) < 2:
        return None
    half = stats.t.ppf(1 - LEVEL / 2, len(gain_N) - 1) * gain_N.std(ddof=1) / math.sqrt(len(gain_N))
    return float(gain_N.mean() - half), float(gain_N.mean() + half)


def _images_needed(gain_N: np.ndarray) -> int | None:
    """Return how many images tell a difference like this apart: at 5 %, four times out of five.

    None where the results do not differ at all.
    """
    mean = abs(float(gain_N.mean()))
    if len(gain_N) < 2 or mean < 1e-12:
        return None
    reach = stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)
    return max(2, math.ceil((reach * float(gain_N.std(ddof=1)) / mean) ** 2))


def _discordant(before_N: np.ndarray, after_N: np.ndarray) -> Discordant:
    return Discordant(int(np.sum(after_N & ~before_N)), int(np.sum(before_N & ~after_N)))


def _binomial(one: int, other: int) -> float:
    return float(stats.binomtest(one, one + other).pvalue) if one + other else 1.0


def paired_table(pairs: Sequence[Pair], radii: np.ndarray) -> Table:
    """Return results against others at radii [R] as a table; its values are McNemar's p there."""
    fixed = ["result", "against", "images", "difference", "from", "to", "larger", "smaller"]
    at = [f"at {r:g}" for r in round_down(radii, 6)]
    return Table(
        header=[*fixed, "sign test p", "images needed", *at],
        rows=[_values(pair) for pair in pairs],
        texts=[_texts(pair) for pair in pairs],
        best={(i, fixed.index("difference")) for i, p in enumerate(pairs) if p.is_told_apart},
        title="Differences on the same images",
        caption="bold: differences whose interval leaves 0 out",
        notes=NOTES,
    )


def _values(pair: Pair) -> list[Any]:
    return [
        pair.name, pair.against, pair.num_images, pair.difference,
        *(pair.interval or (None, None)),
        pair.larger, pair.smaller, pair.sign_p, pair.images_needed,
        *(each.p_value if each else None for each in pair.at),
    ]  # fmt: skip


def _texts(pair: Pair) -> list[str]:
    return [
        pair.name, pair.against, str(pair.num_images), _signed(pair.difference),
        *map(_signed, pair.interval or (None, None)),
        _text(pair.larger), _text(pair.smaller), _p(pair.sign_p),
        f"{pair.images_needed:,}" if pair.images_needed else UNKNOWN,
        *(f"+{d.gained} -{d.lost} p {_p(d.p_value)}" if d else UNKNOWN for d in pair.at),
    ]  # fmt: skip


def compare_all(results: Sequence[Certificates], radii: np.ndarray) -> Table:
    """Return the comparison of every result with the first one; UserError for a single result."""
    if len(results) < 2:
        raise UserError("--paired compares results: give at least two")
    first, *others = results
    return paired_table([compare_pair(each, first, radii) for each in others], radii)


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.4f}"


def _text(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _p(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value < SMALLEST_P:
        return f"<{SMALLEST_P:.0e}"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
