"""ACR against draws per image: what more draws would still buy, a line per result.

A bound from few draws is loose, whatever the network. From the share of hits that an image had,
its radius at any other number of draws is computed as if the share stayed: a projection, no
certificate.
"""

# Shapes: N images, D numbers of draws.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import special

from rsray.core.bounds import clopper_pearson_lower
from rsray.core.decide import projected_radius
from rsray.errors import UserError
from rsray.results.certificates import Certificates
from rsray.results.plots.style import Style, finish, look, new_figure, text_of

NOTE = (
    "Dots: certified. Lines: projected from each image's share of hits by Clopper-Pearson's bound, "
    "as if the share stayed; not certificates."
)
ROUNDING = 1e-9
DRAWS = np.unique(np.geomspace(100, 1e6, 41).astype(int))


def draw(results: Sequence[Certificates], style: Style) -> Figure:
    """Return the figure; UserError for a result that does not say what it is projected from."""
    style = style.with_note(NOTE)
    figure, (axes,) = new_figure(style)
    for position, result in enumerate(results):
        n, line = result.parameter("n"), look(position)
        name = text_of(f"{result.name} (ACR {result.acr:.3f})")
        axes.plot(DRAWS, projected_acr(result), linewidth=1.4, label=name, **line)
        axes.plot([n], [result.acr], marker="o", markersize=5, color=line["color"])
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("estimation draws per image (n)")
    axes.set_ylabel("ACR")
    return finish(figure, axes, style)


def projected_acr(result: Certificates) -> np.ndarray:
    """Return the ACR [D] that the result would have with each number of `DRAWS`."""
    if result.at_radius:
        raise UserError(f"{result.name} decided a few radii alone: it has no ACR")
    sigma, n, alpha = (result.parameter(name) for name in ("sigma", "n", "alpha"))
    if sigma is None or n is None or alpha is None:
        raise UserError(
            f"{result.name} does not say sigma, n and alpha: give --log-sigma, --log-n, --log-alpha"
        )
    share_N = _shares(result, float(sigma), int(n), float(alpha))[result.correct]
    radii = (
        projected_radius(share_N, sigma=sigma, n=draws, alpha=alpha) for draws in DRAWS.tolist()
    )
    return np.array([radius_N.sum() / len(result.selected) for radius_N in radii])


def _shares(result: Certificates, sigma: float, n: int, alpha: float) -> np.ndarray:
    """Return each image's share of hits [N]; of a log, the one whose bound gives its radius."""
    if (result.count_a >= 0).all():
        return np.asarray(result.count_a / np.maximum(result.n, 1))
    hits = np.arange(n // 2, n + 1)
    bounds = clopper_pearson_lower(hits, n, alpha)
    found = np.searchsorted(bounds, special.ndtr(result.radius / sigma) - ROUNDING)
    return np.asarray(hits[np.minimum(found, len(hits) - 1)] / n)
