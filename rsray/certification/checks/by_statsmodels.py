"""Certificates by Clopper-Pearson's bounds from statsmodels, which shares no code with rsray's."""

# Shapes: N images.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsray.certification.sampling_plan import SamplingPlan
from rsray.core.bounds.reused_counts import EARLIER, NEW, pairs_say_more
from rsray.core.bounds.tcertify import choose_alpha
from rsray.core.evidence import ABSTAIN, Evidence

Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]


def columns_by_statsmodels(evidence: Evidence, plan: SamplingPlan) -> Columns | None:
    """Return what certificates say by the plan's bound; None of bounds that need other ones."""
    from scipy.stats import norm

    if plan.bound.name not in _BOUNDS:
        return None
    p_a, p_b = _BOUNDS[plan.bound.name](evidence, plan)
    is_certified_N = p_a > 0.5
    half = plan.sigma / 2
    radius_N = np.where(is_certified_N, half * (norm.ppf(p_a) - norm.ppf(p_b)), 0.0)
    return {
        "prediction": np.where(is_certified_N, evidence.selected_class, ABSTAIN).astype(np.int32),
        "radius": radius_N,
        "p_a_lower": p_a,
        "p_b_upper": p_b,
    }


def _bounds(hits: NDArray[Any], n: NDArray[Any], alpha: Floats | float) -> tuple[Floats, Floats]:
    """Return the lower and the upper bound of each image, level by level; 0 and 1 of no draws."""
    from statsmodels.stats.proportion import proportion_confint

    alpha_N = np.broadcast_to(alpha, hits.shape)
    lower_N, upper_N = np.zeros(hits.shape), np.ones(hits.shape)
    for level in np.unique(alpha_N[n > 0]):
        at = (n > 0) & (alpha_N == level)
        ends = proportion_confint(hits[at], n[at], alpha=2 * level, method="beta")
        lower_N[at], upper_N[at] = ends
    return lower_N, upper_N


def _clopper_pearson(evidence: Evidence, plan: SamplingPlan) -> tuple[Floats, Floats]:
    return _one_sided(_bounds(evidence.hits, evidence.n, plan.alpha)[0], plan)


def _reused_counts(evidence: Evidence, plan: SamplingPlan) -> tuple[Floats, Floats]:
    reused, alpha = evidence.reused, plan.alpha
    assert reused is not None
    is_through_N = (reused.pairs > 0) & pairs_say_more(
        reused.hits, reused.n, reused.lost_in_selection, evidence.n0, reused.pairs, alpha
    )
    through_N = _bounds(reused.hits, reused.n, EARLIER * alpha)[0]
    through_N -= _bounds(reused.lost, reused.pairs, NEW * alpha)[1]
    own_N = _bounds(evidence.hits, evidence.n, NEW * alpha)[0]
    return _one_sided(np.where(is_through_N, through_N, own_N), plan)


def _one_sided(lower_N: Floats, plan: SamplingPlan) -> tuple[Floats, Floats]:
    """Return p_A without what the noise lacks of the exact one, and what is left for the others."""
    p_a = np.maximum(lower_N - plan.total_variation, 0.0)
    return p_a, 1.0 - p_a


def _tcertify(evidence: Evidence, plan: SamplingPlan) -> tuple[Floats, Floats]:
    level_N = choose_alpha(evidence, plan.alpha)
    p_a, rest_N = _one_sided(_bounds(evidence.hits, evidence.n, level_N)[0], plan)
    rest_alpha_N = np.maximum(plan.alpha - level_N, 0.0)
    upper_N = _bounds(evidence.runner_up, evidence.n, rest_alpha_N)[1]
    is_two_sided_N = (p_a > 0.5) & (level_N < plan.alpha)
    two_sided_N = np.minimum(rest_N, upper_N + plan.total_variation)
    return p_a, np.where(is_two_sided_N, two_sided_N, rest_N)


_BOUNDS: dict[str, Callable[[Evidence, SamplingPlan], tuple[Floats, Floats]]] = {
    "clopper-pearson": _clopper_pearson,
    "tcertify": _tcertify,
    "reused-counts": _reused_counts,
}
