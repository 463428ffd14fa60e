"""Certificates through another network's counts, where it is known how the two disagree."""

from dataclasses import replace

import numpy as np
import pytest

from rsray.core.bounds import clopper_pearson_lower
from rsray.core.bounds.reused_counts import REUSED_COUNTS, pairs_say_more
from rsray.core.evidence import Evidence, Reused

ALPHA, TRIALS, N, PAIRS, N0 = 0.05, 4000, 20_000, 2_000, 100
ALLOWED = ALPHA * TRIALS + 4 * np.sqrt(TRIALS * ALPHA * (1 - ALPHA))


def drawn(both, lost, won):
    """Evidence of trials: what the earlier network counted, and other draws that both made."""
    rng = np.random.default_rng(0)
    shares = [both, lost, won, 1 - both - lost - won]
    (both_N, lost_N, won_N, _), (_, pilot_lost_N, _, _) = (
        rng.multinomial(draws, shares, TRIALS).T for draws in (PAIRS, N0)
    )
    hits_N = both_N + won_N
    found = Evidence.of_counts(
        np.tile([N0, 0], (TRIALS, 1)), np.stack([hits_N, PAIRS - hits_N], axis=1)
    )
    pairs_N = np.full(TRIALS, PAIRS)
    earlier_N = rng.binomial(N, both + lost, TRIALS)
    return replace(
        found, reused=Reused(np.full(TRIALS, N), earlier_N, pairs_N, lost_N, pilot_lost_N)
    )


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
    alone = replace(evidence, reused=None)
    assert through > 1.04 * REUSED_COUNTS.decide(alone, sigma=1.0, alpha=0.001).radius.mean()


def test_without_pairs_it_is_the_bound_of_its_own_draws():
    evidence = drawn(0.7, 0.0, 0.0)
    nothing = np.zeros(TRIALS, dtype=np.int64)
    alone = replace(evidence, reused=replace(evidence.reused, pairs=nothing, lost=nothing))
    decision = REUSED_COUNTS.decide(alone, sigma=1.0, alpha=ALPHA)
    want = clopper_pearson_lower(evidence.hits, PAIRS, 0.75 * ALPHA)
    assert np.array_equal(decision.p_a_lower, want)


def test_pairs_are_wanted_where_they_can_help():
    tops = np.array([100_000, 99_990, 97_000, 80_000, 50_500, 30_000, 0])
    wanted = pairs_say_more(tops, 100_000, 0, 100, 10_000, 0.001)
    assert wanted.tolist() == [False, False, True, True, False, False, False]
    # Fewer where the selection shows that the networks often disagree.
    assert not pairs_say_more(tops, 100_000, 3, 100, 10_000, 0.001).any()
    assert not pairs_say_more(np.array([0]), np.array([0]), 0, 100, 10_000, 0.001).any()


def test_the_choice_looks_at_nothing_that_the_pairs_show():
    evidence = drawn(0.8, 0.005, 0.0)
    chosen = []
    for pairs_lost in (0, 400):
        reused = replace(evidence.reused, lost=np.full(TRIALS, pairs_lost))
        other = replace(evidence, hits=np.full(TRIALS, 900), reused=reused)
        own = clopper_pearson_lower(900, PAIRS, 0.75 * ALPHA)
        chosen.append(REUSED_COUNTS.lower_of(other, ALPHA) == own)
    assert np.array_equal(*chosen) and 0 < chosen[0].mean() < 1
