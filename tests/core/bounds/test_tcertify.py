"""T-CERTIFY's runner-up bound against brute force, and what the choice of alpha' does."""

import numpy as np
import pytest
from scipy import optimize, stats

from rsray.core.bounds import clopper_pearson_lower
from rsray.core.bounds.tcertify import GRID, certify_tcertify, choose_alpha, others_upper
from rsray.core.counts import ClassCounts
from rsray.core.decide import certify_hard

ALPHA = 0.01


def brute_force(others_K, n, level):
    """The root of sum_j P(Bin(n, p) <= N_j) = level, class by class."""

    def excess(p):
        return stats.binom.cdf(others_K, n, p).sum() - level

    if excess(1.0) > 0:
        return 1.0
    return optimize.brentq(excess, 0.0, 1.0, xtol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("n", [50, 3000, 100_000])
def test_upper_bound_of_the_others_is_the_root(num_classes, n):
    rng = np.random.default_rng(num_classes + n)
    others = num_classes - 1
    p = rng.dirichlet(np.full(others, 0.05 if others > 9 else 0.5), 12) * rng.uniform(
        0, 0.5, (12, 1)
    )
    counts = np.array([rng.multinomial(n, [*row, 1 - row.sum()])[:-1] for row in p])
    counts[0] = 0
    counts[1] = n // (2 * others)
    got = others_upper(ClassCounts.dense(counts), n, ALPHA, others)
    for row, value in zip(counts, got, strict=True):
        exact = brute_force(row, n, ALPHA)
        assert exact * (1 - 1e-12) <= value <= exact * (1 + 1e-8)


def test_level_and_n_may_differ_by_image():
    counts = np.array([[5, 3, 0], [500, 480, 3], [0, 0, 0]])
    n, level = np.array([100, 4000, 60]), np.array([0.01, 1e-5, 0.3])
    got = others_upper(ClassCounts.dense(counts), n, level, 3)
    want = [brute_force(*each) for each in zip(counts, n, level, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-8)


def dense(*rows):
    return ClassCounts.dense(np.array(rows))


def test_a_spread_runner_up_gains_and_a_single_one_falls_back():
    selection = dense([70, 6, 6, 6, 6, 6], [70, 30, 0, 0, 0, 0], [100, 0, 0, 0, 0, 0])
    estimation = dense(
        *(100 * np.array([[70, 6, 6, 6, 6, 6], [70, 30, 0, 0, 0, 0], [100, 0, 0, 0, 0, 0]]))
    )
    chosen = choose_alpha(selection, estimation.totals(), ALPHA)
    assert chosen[0] < ALPHA and chosen[1] == chosen[2] == ALPHA
    got = certify_tcertify(selection, estimation, sigma=0.5, alpha=ALPHA, num_classes=6)
    plain = certify_hard(selection, estimation, sigma=0.5, alpha=ALPHA)
    assert got.radius[0] > 1.5 * plain.radius[0]
    for name in ("prediction", "radius", "p_a_lower", "p_b_upper", "count_a", "n"):
        assert np.array_equal(getattr(got, name)[1:], getattr(plain, name)[1:])
    assert got.p_a_lower[0] == clopper_pearson_lower(7000, 10_000, chosen[0])
    p_b = brute_force([600] * 5, 10_000, ALPHA - chosen[0])
    radius = 0.25 * (stats.norm.ppf(got.p_a_lower[0]) - stats.norm.ppf(p_b))
    assert got.p_b_upper[0] == pytest.approx(p_b, rel=1e-8)
    assert got.radius[0] == pytest.approx(radius, rel=1e-8)


def test_the_choice_depends_on_the_selection_draws_alone():
    selection = dense([60, 10, 10, 10, 10], [60, 10, 10, 10, 10])
    estimation = dense([6000, 1000, 1000, 1000, 1000], [6000, 4000, 0, 0, 0])
    chosen = choose_alpha(selection, estimation.totals(), ALPHA)
    assert chosen[0] == chosen[1] < ALPHA
    assert np.isin(np.round(chosen / ALPHA, 12), GRID).all()
    got = certify_tcertify(selection, estimation, sigma=1.0, alpha=ALPHA, num_classes=5)
    assert got.p_b_upper[1] == 1 - got.p_a_lower[1]  # min(p_B, 1 - p_A)


def test_as_in_the_paper_half_or_less_abstains():
    selection, estimation = dense([45, 14, 14, 14, 13]), dense([4500, 1400, 1400, 1400, 1300])
    got = certify_tcertify(selection, estimation, sigma=1.0, alpha=ALPHA, num_classes=5)
    assert got.prediction[0] == -1 and got.radius[0] == 0 and got.p_a_lower[0] < 0.5


def test_the_papers_variant_is_the_largest_radius_of_the_grid():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([8, 1, 1, 1, 1], 40)
    selection = ClassCounts.dense(rng.multinomial(100, p))
    estimation = ClassCounts.dense(rng.multinomial(2000, p))
    values = {"sigma": 1.0, "alpha": ALPHA, "num_classes": 5}
    default = certify_tcertify(selection, estimation, **values)
    paper = certify_tcertify(selection, estimation, **values, variant="paper")
    assert np.all(paper.radius >= default.radius - 1e-12) and (paper.radius > default.radius).any()


def test_images_without_draws_abstain():
    empty = ClassCounts.dense(np.zeros((3, 4), dtype=int))
    got = certify_tcertify(empty, empty, sigma=1.0, alpha=ALPHA, num_classes=4)
    assert got.prediction.tolist() == [-1] * 3 and not got.radius.any()
