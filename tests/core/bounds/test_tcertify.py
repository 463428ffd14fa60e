"""T-CERTIFY's runner-up bound against scipy and the paper's sum, and what the choice of alpha' does."""

import numpy as np
import pytest
from scipy import optimize, stats

from rsray.core.bounds.clopper_pearson import (
    CLOPPER_PEARSON,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from rsray.core.bounds.tcertify import SHARES, TCERTIFY, choose_alpha
from rsray.core.evidence import Evidence

ALPHA = 0.01


def evidence(selection, estimation):
    return Evidence.of_counts(np.array(selection), np.array(estimation))


def sum_of_the_paper(others_K, n, level):
    """The root of sum_j P(Bin(n, p) <= N_j) = level, class by class (Algorithm 2)."""

    def excess(p):
        return stats.binom.cdf(others_K, n, p).sum() - level

    if excess(1.0) > 0:
        return 1.0
    return optimize.brentq(excess, 0.0, 1.0, xtol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("num_classes", [3, 10, 1000])
@pytest.mark.parametrize("n", [50, 3000, 100_000])
def test_runner_up_bound_is_the_exact_one_of_the_largest_count(num_classes, n):
    rng = np.random.default_rng(num_classes + n)
    p = np.column_stack([np.full(20, 0.7), 0.3 * rng.dirichlet(np.ones(num_classes - 1), 20)])
    selection, estimation = rng.multinomial(100, p), rng.multinomial(n, p)
    found = evidence(selection, estimation)
    level, got = choose_alpha(found, ALPHA), TCERTIFY.decide(found, sigma=1.0, alpha=ALPHA)
    is_two_sided = got.p_b_upper < 1 - got.p_a_lower
    assert is_two_sided.any() or num_classes == 3
    for i in np.flatnonzero(is_two_sided):
        others = np.delete(estimation[i], found.selected_class[i])
        most, rest = int(others.max()), ALPHA - level[i]
        want = stats.beta.ppf(1 - rest, most + 1, n - most)
        assert got.p_b_upper[i] == pytest.approx(want, rel=1e-9)
        # What bounds all classes at once is looser.
        assert got.p_b_upper[i] <= sum_of_the_paper(others, n, rest) * (1 + 1e-9)


def test_a_spread_runner_up_gains_and_a_single_one_falls_back():
    counts = np.array([[70, 6, 6, 6, 6, 6], [70, 30, 0, 0, 0, 0], [100, 0, 0, 0, 0, 0]])
    found = evidence(counts, 100 * counts)
    chosen = choose_alpha(found, ALPHA)
    assert chosen[0] < ALPHA and chosen[1] == chosen[2] == ALPHA
    got = TCERTIFY.decide(found, sigma=0.5, alpha=ALPHA)
    plain = CLOPPER_PEARSON.decide(found, sigma=0.5, alpha=ALPHA)
    assert got.radius[0] > 1.5 * plain.radius[0]
    for name in ("prediction", "radius", "p_a_lower", "p_b_upper", "count_a", "n"):
        assert np.array_equal(getattr(got, name)[1:], getattr(plain, name)[1:])
    assert got.p_a_lower[0] == clopper_pearson_lower(7000, 10_000, chosen[0])
    p_b = stats.beta.ppf(1 - (ALPHA - chosen[0]), 601, 9400)
    radius = 0.25 * (stats.norm.ppf(got.p_a_lower[0]) - stats.norm.ppf(p_b))
    assert got.p_b_upper[0] == pytest.approx(p_b, rel=1e-8)
    assert got.radius[0] == pytest.approx(radius, rel=1e-8)


def test_the_choice_depends_on_the_selection_draws_alone():
    pilot = [60, 10, 10, 10, 10]
    found = evidence([pilot, pilot], [[6000, 1000, 1000, 1000, 1000], [6000, 4000, 0, 0, 0]])
    chosen = choose_alpha(found, ALPHA)
    assert chosen[0] == chosen[1] < ALPHA
    assert np.isin(np.round(chosen / ALPHA, 12), SHARES).all()
    got = TCERTIFY.decide(found, sigma=1.0, alpha=ALPHA)
    bounds = clopper_pearson_upper([1000, 4000], 10_000, ALPHA - chosen)
    assert np.array_equal(got.p_b_upper, np.minimum(bounds, 1 - got.p_a_lower))


def test_as_in_the_paper_half_or_less_abstains():
    found = evidence([[45, 14, 14, 14, 13]], [[4500, 1400, 1400, 1400, 1300]])
    got = TCERTIFY.decide(found, sigma=1.0, alpha=ALPHA)
    assert got.prediction[0] == -1 and got.radius[0] == 0 and got.p_a_lower[0] < 0.5


def test_images_without_draws_abstain():
    empty = np.zeros((3, 4), dtype=int)
    got = TCERTIFY.decide(evidence(empty, empty), sigma=1.0, alpha=ALPHA)
    assert got.prediction.tolist() == [-1] * 3 and not got.radius.any()
