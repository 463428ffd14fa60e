"""Bounds against statsmodels, the papers' formulas in exact arithmetic, and their coverage."""

from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint

import rsray
from rsray.core.bounds import (
    BOUNDS,
    LEAST_ALPHA,
    bernstein_lower,
    check_settings,
    clopper_pearson_lower,
    clopper_pearson_upper,
    hoeffding_lower,
)
from rsray.core.evidence import ABSTAIN, Evidence
from rsray.errors import UserError

ALPHAS = (0.2, 0.05, 0.001, 1e-6)


def binomial_margin(alpha, trials):
    """Failures that a bound of error alpha may show: the mean and four standard deviations."""
    return alpha * trials + 4 * np.sqrt(trials * alpha * (1 - alpha))


@pytest.mark.parametrize("n", [1, 2, 7, 10, 100, 999, 1000, 12_345, 100_000, 10_000_000])
def test_clopper_pearson_is_statsmodels(n):
    rng = np.random.default_rng(n)
    edges = [0, 1, n // 2, n // 2 + 1, n - 1, n]
    counts = np.unique(np.clip(np.concatenate([edges, rng.integers(0, n + 1, 300)]), 0, n))
    for alpha in ALPHAS:
        lower, upper = proportion_confint(counts, n, alpha=2 * alpha, method="beta")
        np.testing.assert_allclose(
            clopper_pearson_lower(counts, n, alpha), np.nan_to_num(lower), rtol=1e-12, atol=0
        )
        # The upper bound is taken from 1: exact to the rounding of 1, not of a tiny bound.
        np.testing.assert_allclose(
            clopper_pearson_upper(counts, n, alpha),
            np.nan_to_num(upper, nan=1),
            rtol=1e-12,
            atol=3e-16,
        )


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize("alpha", [-0.1, 0, 1, 2, np.nan, [0.1, 5]])
def test_clopper_pearson_refuses_an_alpha_that_is_no_probability(bound, alpha):
    with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
        bound(3, 4, alpha)


def test_clopper_pearson_inverts_the_binomial_tail():
    counts, n, alpha = np.arange(1, 200), 200, 0.001
    lower = clopper_pearson_lower(counts, n, alpha)
    np.testing.assert_allclose(stats.binom.sf(counts - 1, n, lower), alpha, rtol=1e-8)
    upper = clopper_pearson_upper(counts, n, alpha)
    np.testing.assert_allclose(stats.binom.cdf(counts, n, upper), alpha, rtol=1e-8)


@pytest.mark.parametrize(
    ("n", "misses"), [(10, 0), (100, 40), (1000, 300), (100_000, 0), (100_000, 10), (100_000, 1500)]
)
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
def test_rounding_moves_no_bound_beyond_its_level(n, misses, alpha):
    """The tail at the float64 bound, summed to 40 digits: half a unit of its last place is all."""
    with mpmath.workdps(40):
        p = mpmath.mpf(float(clopper_pearson_lower(n - misses, n, alpha)))
        term = tail = p**n
        for k in range(1, misses + 1):
            term *= (n - k + 1) * (1 - p) / (k * p)
            tail += term
        assert abs(tail / mpmath.mpf(alpha) - 1) < n * 2.0**-52 + 1e-13


def test_clopper_pearson_at_the_ends():
    assert clopper_pearson_lower(0, 100, 0.001) == 0
    assert clopper_pearson_upper(100, 100, 0.001) == 1
    assert clopper_pearson_lower(0, 0, 0.001) == 0
    for n, alpha in [(1, 0.3), (100, 0.001), (100_000, 0.001)]:
        assert clopper_pearson_lower(n, n, alpha) == pytest.approx(alpha ** (1 / n), rel=1e-13)


def test_clopper_pearson_is_vectorised_in_every_argument():
    counts, n, alpha = np.array([[3], [50]]), np.array([60, 100, 1000]), np.array(0.01)
    lower = clopper_pearson_lower(counts, n, alpha)
    assert lower.shape == (2, 3) and lower.dtype == np.float64
    for i, j in np.ndindex(2, 3):
        assert lower[i, j] == clopper_pearson_lower(counts[i, 0], n[j], 0.01)


def test_clopper_pearson_coverage_is_exact():
    # The probability of failure summed over all outcomes: no simulation, no margin.
    n, alpha = 50, 0.05
    hits = np.arange(n + 1)
    lower = clopper_pearson_lower(hits, n, alpha)
    for p in np.linspace(0.01, 0.99, 99):
        assert stats.binom.pmf(hits, n, p)[lower > p].sum() <= alpha


@pytest.mark.parametrize(("counts", "n"), [(-1, 10), (11, 10), ([1, 11], 10)])
def test_impossible_counts_are_refused(counts, n):
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        with pytest.raises(ValueError, match="between 0 and n"):
            bound(counts, n, 0.01)


@pytest.fixture(scope="module")
def soft_values():
    """Softmax probabilities in [0, 1]: values [T, n] of T trials, and their mean to 1e-6."""
    trials, n = 3000, 400
    rng = np.random.default_rng(0)
    values = special.expit(1.0 + 1.5 * rng.standard_normal((trials, n)))
    at, weight = np.polynomial.hermite_e.hermegauss(100)
    mean = np.dot(special.expit(1.0 + 1.5 * at), weight) / np.sqrt(2 * np.pi)
    return values, mean


def test_hoeffding_is_the_papers_equation_23(soft_values):
    values = soft_values[0][:200]
    k = values.shape[1]
    for alpha in ALPHAS:
        want = values.mean(axis=1) - np.sqrt(-np.log(alpha) / (2 * k))
        np.testing.assert_allclose(hoeffding_lower(values.sum(axis=1), k, alpha), want, rtol=1e-12)
    assert hoeffding_lower(0.3, 10, 0.001) == 0  # a probability is never below 0


def test_bernstein_is_the_papers_equation_26(soft_values):
    values = soft_values[0][:200]
    k = values.shape[1]
    sample_variance = values.var(axis=1, ddof=1)
    for alpha in ALPHAS:
        log_term = np.log(2 / alpha)
        want = values.mean(axis=1) - np.sqrt(2 * sample_variance * log_term / k)
        want = np.maximum(want - 7 * log_term / (3 * (k - 1)), 0)
        got = bernstein_lower(values.sum(axis=1), (values**2).sum(axis=1), k, alpha)
        np.testing.assert_allclose(got, want, rtol=1e-9)


def test_bernstein_by_hand():
    # 1, 0, 1, 1: mean 3/4, variance 1/4; alpha = 2/e makes the logarithm 1.
    alpha = 2 / np.e
    want = 0.75 - np.sqrt(2 * 0.25 / 4) - 7 / 9
    assert bernstein_lower(3, 3, 4, alpha) == max(want, 0) == 0
    many = 10_000
    want = 0.75 - np.sqrt(2 * (0.1875 * many / (many - 1)) / many) - 7 / (3 * (many - 1))
    assert bernstein_lower(7500, 7500, many, alpha) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.05])
def test_soft_bounds_cover_the_mean(soft_values, alpha):
    values, mean = soft_values
    trials, n = values.shape
    sums, squares = values.sum(axis=1), (values**2).sum(axis=1)
    for lower in (hoeffding_lower(sums, n, alpha), bernstein_lower(sums, squares, n, alpha)):
        assert (lower > mean).sum() <= binomial_margin(alpha, trials)
        assert (lower > mean - 0.2).mean() > 0.99  # and they say something


@pytest.mark.parametrize("p", [0.5, 0.8, 0.99])
def test_hard_bound_covers_and_is_tight(p):
    trials, n, alpha = 20_000, 500, 0.05
    hits = np.random.default_rng(1).binomial(n, p, trials)
    failures = (clopper_pearson_lower(hits, n, alpha) > p).sum()
    assert 0.02 * trials <= failures <= binomial_margin(alpha, trials)


def test_soft_bounds_stay_below_clopper_pearson_on_zeros_and_ones():
    # MACER paper, appendix A.3: on hits the exact bound is the largest of the three.
    hits = np.arange(0, 1001)
    exact = clopper_pearson_lower(hits, 1000, 0.001)
    assert np.all(hoeffding_lower(hits, 1000, 0.001) <= exact)
    assert np.all(bernstein_lower(hits, hits, 1000, 0.001) <= exact)


def test_smallest_useful_n_by_brute_force():
    alphas = [0.9, 0.6, 0.5, 0.3, 0.1, 0.05, 0.01, 1e-3, 1e-9, 1e-30, 1e-300]
    alphas += [2.0**-k for k in range(1, 60)] + list(np.random.default_rng(2).uniform(0, 1, 200))
    for alpha in alphas:
        n = 1
        while Fraction(alpha) * 2**n <= 1:  # alpha^(1/n) <= 1/2, without rounding
            n += 1
        assert BOUNDS["clopper-pearson"].smallest_useful_n(alpha) == n, alpha


def all_hits(n):
    """Evidence of one image whose draws all hit, each with a soft probability of 1."""
    found = Evidence.of_counts(np.array([[0, 100]]), np.array([[0, n]]))
    return replace(found, sums=np.array([float(n)]), square_sums=np.array([float(n)]))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001, 1e-9])
def test_smallest_useful_n_is_where_certificates_begin(alpha, bound):
    member = BOUNDS[bound]
    n = member.smallest_useful_n(alpha)
    first, before = (
        member.decide(all_hits(each), sigma=0.5, alpha=alpha) for each in (n, max(0, n - 1))
    )
    assert first.prediction[0] == 1 and first.radius[0] > 0
    assert before.prediction[0] == ABSTAIN and before.radius[0] == 0
    check_settings(n, alpha, bound=bound)
    if n > 1:
        with pytest.raises(UserError, match=f"n must be at least {n} "):
            check_settings(n - 1, alpha, bound=bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_member_tells_what_it_is_and_abstains_without_draws(bound):
    member = BOUNDS[bound]
    assert member.name == bound and not (member.is_soft and member.needs_runner_up)
    nothing = np.zeros((3, 4), dtype=int)
    got = member.decide(Evidence.of_counts(nothing, nothing), sigma=1.0, alpha=0.01)
    assert got.prediction.tolist() == [ABSTAIN] * 3 and not got.radius.any()
    assert got.prediction.dtype == np.int32 and got.count_a.dtype == np.int64


def test_functions_of_bounds_are_found_by_name():
    assert rsray.bounds.clopper_pearson_lower is clopper_pearson_lower
    for name in rsray.bounds.__all__:
        assert getattr(rsray.bounds, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        _ = rsray.bounds.no_such
    with pytest.raises(UserError, match="bound 'normal' is unknown; choose one of clopper-pear"):
        BOUNDS["normal"]


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2, float("nan"), 1e-101])
def test_alpha_outside_0_and_1_is_refused(alpha):
    with pytest.raises(UserError, match=f"alpha is {alpha}: .*below 1 and at least 1e-100"):
        check_settings(100_000, alpha)


def test_the_least_alpha_has_bounds_of_all_counts():
    for n in (10, 1000, 1_000_000):
        counts = np.unique(np.geomspace(1, n, 500).astype(int))
        lower = clopper_pearson_lower(counts, n, LEAST_ALPHA / 2)
        assert (lower > 0).all() and (lower < counts / n).all()


def test_useless_settings_are_refused_with_what_would_do():
    with pytest.raises(UserError, match="n is 9: .*alpha 0.001; n must be at least 10"):
        check_settings(9, 0.001)
    with pytest.raises(UserError, match="n0 is 0: .*at least 1"):
        check_settings(1000, 0.001, n0=0)
    check_settings(10, 0.001, n0=1)
