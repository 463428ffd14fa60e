"""Certificates through another network's counts, where it is known how the two disagree."""

import numpy as np
import pytest

from rsray.core.bounds import clopper_pearson_lower
from rsray.core.bounds.reused_counts import REUSED_COUNTS, is_worth_pairing
from rsray.core.evidence import Evidence, Reused

ALPHA, TRIALS, N, PAIRS = 0.05, 4000, 20_000, 2_000
ALLOWED = ALPHA * TRIALS + 4 * np.sqrt(TRIALS * ALPHA * (1 - ALPHA))


def drawn(both, lost, won):
    """Evidence of trials: the pairs are among the earlier network's n draws, as in a run."""
    rng = np.random.default_rng(0)
    pairs = rng.multinomial(PAIRS, [both, lost, won, 1 - both - lost - won], TRIALS)
    both_N, lost_N, won_N, _ = pairs.T
    earlier_N = both_N + lost_N + rng.binomial(N - PAIRS, both + lost, TRIALS)
    hits_N = both_N + won_N
    found = Evidence.of_counts(
        np.tile([1, 0], (TRIALS, 1)), np.stack([hits_N, PAIRS - hits_N], axis=1)
    )
    reused = Reused(np.full(TRIALS, N), earlier_N, np.full(TRIALS, PAIRS), lost_N)
    return Evidence(**{**vars(found), "reused": reused})


@pytest.mark.parametrize(
    ("both", "lost", "won"), [(0.6, 0.02, 0.0), (0.6, 0.02, 0.02), (0.8, 0.0, 0.0), (0.9, 0.001, 0)]
)
def test_it_covers_the_new_networks_probability(both, lost, won):
    evidence, p = drawn(both, lost, won), both + won

    def wrong(alpha):
        return (REUSED_COUNTS.decide(evidence, sigma=1.0, alpha=alpha).p_a_lower > p).sum()

    assert wrong(ALPHA) <= ALLOWED < wrong(10 * ALPHA)
    # What a network that merely resembles another may not claim: the other's probability.
    if lost - won > 0.01:
        assert (clopper_pearson_lower(evidence.reused.hits, N, ALPHA) > p).sum() > ALLOWED


def test_it_gains_where_networks_agree_and_the_class_is_not_certain():
    evidence = drawn(0.8, 0.001, 0.001)
    through = REUSED_COUNTS.decide(evidence, sigma=1.0, alpha=0.001).radius.mean()
    alone = Evidence(**{**vars(evidence), "reused": None})
    assert through > 1.04 * REUSED_COUNTS.decide(alone, sigma=1.0, alpha=0.001).radius.mean()


def test_without_pairs_it_is_the_bound_of_its_own_draws():
    evidence = drawn(0.7, 0.0, 0.0)
    nothing = np.zeros(TRIALS, dtype=np.int64)
    reused = Reused(evidence.reused.n, evidence.reused.hits, nothing, nothing)
    decision = REUSED_COUNTS.decide(
        Evidence(**{**vars(evidence), "reused": reused}), sigma=1.0, alpha=ALPHA
    )
    assert np.array_equal(
        decision.p_a_lower, clopper_pearson_lower(evidence.hits, PAIRS, ALPHA / 3)
    )


def test_pairs_are_made_where_they_can_help():
    tops = np.array([100_000, 99_990, 97_000, 80_000, 50_500, 30_000, 0])
    assert is_worth_pairing(tops, 100_000, 10_000, 0.001).tolist() == [
        False, False, True, True, False, False, False,
    ]  # fmt: skip
    assert not is_worth_pairing(np.array([0]), np.array([0]), 10_000, 0.001).any()
