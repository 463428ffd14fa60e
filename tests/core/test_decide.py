"""Decisions against Cohen et al.'s procedures, written out image by image."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from rsray.core.bounds.clopper_pearson import CLOPPER_PEARSON
from rsray.core.decide import predict_hard, projected_radius
from rsray.core.evidence import ABSTAIN, Evidence


def slow_certify(selection_K, estimation_K, sigma, alpha):
    """CERTIFY of one image as in locuslab/smoothing's core.py."""
    if not selection_K.sum():
        return -1, 0.0, 0.0, 0
    guess = int(selection_K.argmax())
    hits, n = int(estimation_K[guess]), int(estimation_K.sum())
    p = proportion_confint(hits, n, alpha=2 * alpha, method="beta")[0] if hits else 0.0
    if p <= 0.5:
        return -1, 0.0, p, hits
    return guess, sigma * NormalDist().inv_cdf(p), p, hits


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    concentration = np.exp(rng.uniform(-4, 2, (300, 1))) * np.ones(6)
    p_NK = np.stack([rng.dirichlet(row) for row in concentration])
    selection, estimation = rng.multinomial(20, p_NK), rng.multinomial(500, p_NK)
    selection[0], estimation[0] = [0, 10, 10, 0, 0, 0], [0, 400, 100, 0, 0, 0]  # a tie: lower class
    selection[1], estimation[1] = [20, 0, 0, 0, 0, 0], [0, 500, 0, 0, 0, 0]  # no hits
    selection[2], estimation[2] = [0, 0, 0, 0, 0, 20], [0, 0, 0, 0, 0, 500]  # all hits
    selection[3], estimation[3] = [0, 0, 20, 0, 0, 0], [0, 0, 250, 250, 0, 0]  # abstain
    estimation[4] = 0  # skipped
    selection[5] = 0
    return selection, estimation


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_certify_is_the_slow_procedure(tables, alpha):
    selection, estimation = tables
    evidence = Evidence.of_counts(selection, estimation)
    decision = CLOPPER_PEARSON.decide(evidence, sigma=0.5, alpha=alpha)
    want = [slow_certify(s, e, 0.5, alpha) for s, e in zip(selection, estimation, strict=True)]
    prediction, radius, lower, hits = zip(*want, strict=True)
    assert decision.prediction.tolist() == list(prediction)
    assert decision.count_a.tolist() == list(hits)
    np.testing.assert_allclose(decision.radius, radius, rtol=1e-9)
    np.testing.assert_allclose(decision.p_a_lower, lower, rtol=1e-12)
    np.testing.assert_allclose(decision.p_b_upper, 1 - np.array(lower), rtol=1e-12)
    assert decision.n.tolist() == estimation.sum(axis=1).tolist()
    assert decision.prediction[:6].tolist() == [1, -1, 5, -1, -1, -1]
    assert set(decision.prediction[6:]) > {-1, 0, 5}


def test_types_are_those_of_the_certificates(tables):
    decision = CLOPPER_PEARSON.decide(Evidence.of_counts(*tables), sigma=0.5, alpha=0.001)
    assert decision.prediction.dtype == np.int32
    assert decision.radius.dtype == decision.p_a_lower.dtype == np.float64
    assert decision.count_a.dtype == decision.n.dtype == np.int64


def test_predict_is_scipys_binomial_test(tables):
    _, counts = tables
    for alpha in (0.5, 0.05, 0.001):
        prediction, p_value = predict_hard(counts, alpha=alpha)
        for row, got, p in zip(counts, prediction, p_value, strict=True):
            order = np.argsort(-row, kind="stable")
            n_a, n_b = int(row[order[0]]), int(row[order[1]])
            want = stats.binomtest(n_a, n_a + n_b, 0.5).pvalue if n_a else 1.0
            assert p == pytest.approx(want, rel=1e-9, abs=1e-300)
            assert got == (order[0] if want <= alpha else ABSTAIN)


def test_predict_pairs_of_counts_exhaustively():
    pairs = np.array([(a, b) for a in range(40) for b in range(40) if a + b])
    prediction, p_value = predict_hard(pairs, alpha=0.05)
    want = [stats.binomtest(int(a), int(a + b), 0.5).pvalue for a, b in pairs]
    np.testing.assert_allclose(p_value, want, rtol=1e-10)
    assert np.all(prediction[pairs[:, 0] == pairs[:, 1]] == ABSTAIN)


def test_predict_errs_at_most_alpha_of_the_time():
    # The worst case: two classes almost equally likely; class 0 is the smoothed classifier's.
    rng, trials, alpha = np.random.default_rng(5), 20_000, 0.05
    hits = rng.binomial(200, 0.501, trials)
    prediction, _ = predict_hard(np.stack([hits, 200 - hits], 1), alpha=alpha)
    wrong = np.sum(prediction == 1)
    assert wrong <= alpha * trials + 4 * np.sqrt(trials * alpha)


def test_projected_radius_is_what_n_draws_would_certify():
    p_hat = np.array([0.0, 0.3, 0.5, 0.51, 0.8, 0.99, 1.0])
    hits = np.round(p_hat * 100_000).astype(int)
    two = np.ones((len(hits), 1), int) * [1, 0]
    evidence = Evidence.of_counts(two, np.stack([hits, 100_000 - hits], axis=1))
    full = CLOPPER_PEARSON.decide(evidence, sigma=0.25, alpha=0.001)
    got = projected_radius(p_hat, sigma=0.25, n=100_000, alpha=0.001)
    np.testing.assert_array_equal(got, full.radius)
    assert got[-1] == pytest.approx(0.25 * NormalDist().inv_cdf(0.001**1e-5), rel=1e-9)
