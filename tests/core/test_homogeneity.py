import numpy as np
import pytest
from scipy import stats

from rsray.core.homogeneity import combined_p_value, counts_p_values, sums_p_values


def pairs(p, q, draws, size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.multinomial(draws, p, size), rng.multinomial(draws, q, size)


def test_two_classes_are_fishers_exact_test():
    first, second = pairs([0.7, 0.3], [0.7, 0.3], 40, 50)
    for mine, theirs, p in zip(first, second, counts_p_values(first, second), strict=True):
        chance = stats.hypergeom(80, mine[0] + theirs[0], 40)
        low, high = chance.cdf(mine[0]), chance.sf(mine[0] - 1)
        assert p == pytest.approx(min(1.0, 2 * min(low, high)))
        # Of equal sizes Fisher's two-sided test is this one.
        assert p == pytest.approx(stats.fisher_exact([mine, theirs]).pvalue, abs=1e-9)


@pytest.mark.parametrize("p", [[0.999, 0.001, 0.0], [0.6, 0.3, 0.1], [0.34, 0.33, 0.33]])
def test_equal_distributions_are_rejected_no_more_often_than_said(p):
    first, second = pairs(p, p, 200, 4000)
    p_values = counts_p_values(first, second)
    for level in (0.5, 0.1, 0.01):
        assert np.mean(p_values <= level) <= level + 3 * np.sqrt(level / 4000)
    combined = np.array([combined_p_value(part) for part in p_values.reshape(400, 10)])
    for level in (0.2, 0.05):
        assert np.mean(combined <= level) <= level + 3 * np.sqrt(level / 400)


def test_a_small_difference_in_many_blocks_and_a_large_one_in_one_are_seen():
    first, second = pairs([0.92, 0.05, 0.03], [0.88, 0.09, 0.03], 1000, 60)
    assert combined_p_value(counts_p_values(first, second)) < 1e-6
    first, second = pairs([0.9, 0.1], [0.9, 0.1], 1000, 500)
    assert combined_p_value(counts_p_values(first, second)) > 0.01
    first[7] = [1000, 0]
    assert combined_p_value(counts_p_values(first, second)) < 1e-9


def test_a_difference_in_the_runner_up_is_seen():
    first, second = pairs([0.6, 0.4, 0.0], [0.6, 0.2, 0.2], 500, 20)
    assert combined_p_value(counts_p_values(first, second)) < 1e-6


def test_sums_are_bounded_by_hoeffding():
    rng = np.random.default_rng(0)
    draws = np.full(2000, 100)
    values = rng.integers(0, 2, (2, 2000, 100)).sum(axis=2)[..., None].astype(float)
    p = sums_p_values(values[0], values[1], draws)
    assert np.mean(p <= 0.1) <= 0.1
    assert sums_p_values(np.array([[90.0]]), np.array([[40.0]]), np.array([100]))[0] < 1e-9
    assert sums_p_values(np.array([[90.0]]), np.array([[90.0]]), np.array([100]))[0] == 1.0
