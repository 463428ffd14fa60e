"""The empirical distribution of p_A over images (Sun et al., ICML 2025), a line per result.

The ACR weighs an image by its radius, which grows without limit as p_A nears 1: a few very easy
images can lift it. The distribution of p_A shows every image with the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy import special

from rsray.errors import UserError
from rsray.results.certificates import Certificates
from rsray.results.plots.style import Style, finish, look, new_figure, show_percent, text_of

NOTE = (
    "p_A: certified lower bound of the right class's probability under noise. A wrong, abstaining "
    "or failed image counts as 0.5 or less: where a line starts. Lower is better."
)
OF_LOGS = (
    " Of {}, logs of T-CERTIFY, p_A follows from the radius, which rests on the runner-up too: "
    "it may be shown larger than the bound."
)

TICKS = (0.7, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9997, 0.9999, 0.99999, 0.999999)


def draw(results: Sequence[Certificates], style: Style) -> Figure:
    """Return the figure of the distributions."""
    logs = [each.name for each in results if np.isnan(each.p_a_lower).any() and _is_wider(each)]
    style = style.with_note(NOTE + (OF_LOGS.format(", ".join(logs)) if logs else ""))
    figure, (axes,) = new_figure(style)
    for position, result in enumerate(results):
        p, share = distribution(result)
        name = text_of(result.name)
        axes.plot(p, share, drawstyle="steps-post", linewidth=1.4, label=name, **look(position))
    axes.set_xlabel(r"lower bound of $p_A$ (logarithmic in $1 - p_A$)")
    axes.set_ylabel("images at or below it")
    axes.set_xscale("function", functions=(_nines, lambda nines: 1 - 10.0**-nines))
    axes.xaxis.set_minor_locator(NullLocator())
    largest = max(float(probabilities(result).max()) for result in results)
    axes.set_xlim(0.5, max(largest, 0.6))
    axes.set_xticks([0.5, *(tick for tick in TICKS if tick <= largest)])
    axes.xaxis.set_major_formatter("{x:g}")
    show_percent(axes)
    return finish(figure, axes, style)


def _is_wider(result: Certificates) -> bool:
    """Return whether radii may be larger than sigma Phi^-1(p_A)."""
    return bool(result.parameter("bound") == "tcertify")


def _nines(p: np.ndarray) -> np.ndarray:
    """Return how many nines a probability has after the point: 2 of 0.99."""
    return np.asarray(-np.log10(np.maximum(1 - p, 1e-12)))


def distribution(result: Certificates) -> tuple[np.ndarray, np.ndarray]:
    """Return p_A [R] from 0.5 upwards, and the share [R] of images at or below each."""
    p_N = probabilities(result)
    at = np.concatenate([[0.5], np.sort(p_N[p_N > 0.5])])
    return at, np.searchsorted(np.sort(p_N), at, side="right") / len(p_N)


def probabilities(result: Certificates) -> np.ndarray:
    """Return the lower bound of p_A of every selected image [N]; 0.5 where it is not certified.

    Of a log it is Phi(radius / sigma). UserError where sigma is unknown, and for a run that decided
    a few radii alone.
    """
    if result.at_radius:
        raise UserError(
            f"{result.name} decided a few radii alone: its p_A are not those of n draws"
        )
    p_N = result.p_a_lower
    if np.isnan(p_N).any():
        sigma = result.parameter("sigma")
        if sigma is None:
            raise UserError(f"{result.name} does not say its sigma: give --log-sigma")
        p_N = special.ndtr(result.radius / sigma)
    known = np.where(result.correct, np.maximum(p_N, 0.5), 0.5)
    return np.concatenate([known, np.full(len(result.failed), 0.5)])
