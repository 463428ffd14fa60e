"""The randomized bound against its equation, and its failures summed over all outcomes and U."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rsray.core.bounds import BOUNDS, clopper_pearson_lower, randomized_clopper_pearson_lower
from rsray.core.bounds.randomized_clopper_pearson import uniform_numbers
from rsray.core.evidence import Evidence

BOUND = BOUNDS["randomized-clopper-pearson"]


@pytest.mark.parametrize("n", [10, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_it_splits_the_probability_of_the_count(n, alpha):
    rng = np.random.default_rng(n)
    hits, u = rng.integers(1, n, 200), rng.uniform(max(0.01, 2 * alpha), 1, 200)
    lower = randomized_clopper_pearson_lower(hits, n, alpha, u)
    tail = stats.binom.sf(hits, n, lower) + u * stats.binom.pmf(hits, n, lower)
    np.testing.assert_allclose(tail, alpha, rtol=1e-5)
    assert np.all(tail <= alpha * (1 + 1e-9))


def test_it_lies_between_the_exact_bounds_of_two_counts():
    hits, n, alpha = np.arange(0, 50), 50, 0.001
    plain = clopper_pearson_lower(np.arange(0, 51), n, alpha)
    assert np.array_equal(randomized_clopper_pearson_lower(hits, n, alpha, 1.0), plain[:-1])
    last = plain[:-1]
    for u in (0.7, 0.3, 0.01):
        lower = randomized_clopper_pearson_lower(hits, n, alpha, u)
        assert lower[0] == 0 and np.all(lower[1:] > last[1:]) and np.all(lower <= plain[1:])
        last = lower


def test_all_hits_and_the_least_u():
    n = 100_000
    got = randomized_clopper_pearson_lower(n, n, 0.001, [1.0, 0.5, 0.01, 1e-9])
    want = (0.001 / np.array([1.0, 0.5, 0.01, 0.01])) ** (1 / n)
    np.testing.assert_allclose(got, want, rtol=1e-14)
    radius = stats.norm.ppf(randomized_clopper_pearson_lower(n, n, 0.001, np.linspace(0, 1, 999)))
    assert radius.mean() / stats.norm.ppf(0.001 ** (1 / n)) == pytest.approx(1.011, abs=2e-3)
    # With a large alpha too no bound is 1, which would be a radius without end.
    assert randomized_clopper_pearson_lower(7, 7, 0.3, 1e-9) == pytest.approx(0.5 ** (1 / 7))
    assert randomized_clopper_pearson_lower(0, 0, 0.001, 0.5) == 0


@pytest.mark.parametrize("p", [0.3, 0.55, 0.7, 0.9, 0.95])
def test_it_fails_as_often_as_alpha_says(p):
    """The probability of failure over all counts and 500 values of U: no simulation."""
    n, alpha, num_u = 50, 0.05, 500
    hits, u = np.arange(n + 1), (np.arange(num_u) + 0.5) / num_u
    weight = stats.binom.pmf(hits, n, p)

    def fails(level):
        lower = randomized_clopper_pearson_lower(hits[:, None], n, level, u)
        return float((weight[:, None] * (lower > p)).sum() / num_u)

    # Of a U below the least one (0.1 here) some is lost: at most a tenth of one count.
    assert alpha - 0.1 * weight.max() - 2 / num_u <= fails(alpha) <= alpha + 1 / num_u
    assert fails(2 * alpha) > alpha + 1 / num_u  # at a wrong level the test would fail
    plain = float(weight[clopper_pearson_lower(hits, n, alpha) > p].sum())
    assert plain <= fails(alpha) + 1e-12


def test_its_radii_hold_and_fill_alpha():
    trials, n, alpha, p = 20_000, 800, 0.05, 0.62
    rng = np.random.default_rng(0)
    counts = np.stack([hits := rng.binomial(n, p, trials), n - hits], axis=1)
    found = Evidence.of_counts(np.tile([60, 40], (trials, 1)), counts)
    found = replace(found, uniform=uniform_numbers(0, range(trials)))

    def wrong(level):
        return (BOUND.decide(found, sigma=0.5, alpha=level).radius > 0.5 * stats.norm.ppf(p)).sum()

    margin = 4 * np.sqrt(trials * alpha * (1 - alpha))
    assert alpha * trials - margin <= wrong(alpha) <= alpha * trials + margin
    assert wrong(1.5 * alpha) > alpha * trials + margin


def test_numbers_are_uniform_and_of_seed_and_index_alone():
    u = uniform_numbers(3, range(20_000))
    assert stats.kstest(u, "uniform").pvalue > 0.001 and 0 < u.min() and u.max() <= 1
    assert np.array_equal(uniform_numbers(3, [17, 5]), u[[17, 5]])
    assert abs(np.corrcoef(u, uniform_numbers(4, range(20_000)))[0, 1]) < 0.03
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.03
