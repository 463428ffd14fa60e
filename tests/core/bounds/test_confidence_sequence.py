"""Confidence sequences, and how many draws a pilot says an image is worth."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from rsray.core.bounds import clopper_pearson_lower
from rsray.core.bounds.confidence_sequence import (
    ConfidenceSequence,
    answers,
    log_evidence,
    sequence_lower,
)
from rsray.core.evidence import Evidence
from rsray.core.pilot import blocks_worth


@pytest.mark.parametrize(
    ("hits", "draws", "p"), [(0, 0, 0.4), (3, 10, 0.2), (10, 10, 0.7), (0, 5, 0.5)]
)
def test_evidence_is_the_mixture_over_the_likelihood(hits, draws, p):
    def weighted(q):
        return q**hits * (1 - q) ** (draws - hits) * stats.beta.pdf(q, 0.5, 0.5)

    # Over the values above p alone, whose prior is 1 together.
    middle = (p + 1) / 2
    mixture = sum(integrate.quad(weighted, *part)[0] for part in ((p, middle), (middle, 1)))
    mixture /= stats.beta.sf(p, 0.5, 0.5)
    want = math.log(mixture / (p**hits * (1 - p) ** (draws - hits)))
    assert log_evidence(hits, draws, p) == pytest.approx(want, abs=1e-6)


def test_lower_bound_is_the_largest_rejected_p():
    hits, draws, alpha = (
        np.array([5, 60, 99, 100, 99_950]),
        np.array([10, 100, 100, 100, 100_000]),
        0.01,
    )
    lower = sequence_lower(hits, draws, alpha)
    assert np.all(lower < hits / draws)
    needed = -math.log(alpha)
    assert np.all(log_evidence(hits, draws, lower) >= needed)
    assert np.all(log_evidence(hits, draws, np.nextafter(lower, 1) + 1e-15) < needed + 1e-6)
    assert np.all(lower < clopper_pearson_lower(hits, draws, alpha))
    assert sequence_lower(0, 10, alpha) == sequence_lower(0, 0, alpha) == 0


def test_answers_are_those_of_the_bound():
    rng = np.random.default_rng(0)
    draws = np.full(500, 2000)
    hits = rng.binomial(draws, rng.random(500))
    at, alpha = np.array([0.5, 0.7, 0.9]), 0.01
    got = answers(hits, draws, at, alpha)
    assert np.array_equal(got > 0, sequence_lower(hits, draws, alpha)[:, None] >= at)
    upper = 1 - sequence_lower(draws - hits, draws, alpha)
    assert np.array_equal(got < 0, upper[:, None] <= at)


def test_a_yes_is_a_radius_of_at_least_that():
    hits = np.arange(1500, 2001)
    counts = np.stack([hits, 2000 - hits], axis=1)
    radii = (0.25, 0.5)
    found = Evidence.of_counts(counts, counts)
    got = ConfidenceSequence(radii).decide(found, sigma=0.5, alpha=0.01)
    above = answers(hits, 2000, stats.norm.cdf(np.array(radii) / 0.5), 0.01) > 0
    assert np.array_equal(got.radius[:, None] >= radii, above) and above.any() and not above.all()


def test_a_pilot_asks_for_no_more_than_its_tolerance():
    values = {"n": 100_000, "block_size": 1000, "alpha": 0.001}
    wide, fine = (blocks_worth(900, 1000, **values, tolerance=t) for t in (0.05, 0.01))
    assert 1 <= wide < fine < 100
    assert blocks_worth(100, 1000, **values) == 1  # surely below 1/2: it abstains anyway
    assert blocks_worth(1000, 1000, **values, tolerance=1e-9) == 100
    for bound in ("hoeffding", "bernstein", "tcertify"):
        assert 1 <= blocks_worth(900.5, 1000, **values, bound=bound) <= 100
    # By hand, for p known almost exactly: the least number of blocks with a loss of at most 0.05.
    least = {"n": 100_000, "block_size": 1000, "alpha": 0.001, "tolerance": 0.05}
    radius = stats.norm.ppf(
        clopper_pearson_lower(
            0.9 * np.arange(1000, 101_000, 1000), np.arange(1000, 101_000, 1000), 0.001
        )
    )
    want = 1 + int(np.argmax(radius >= radius[-1] - 0.05))
    assert abs(blocks_worth(9e6, 10_000_000, **least) - want) <= 1


def test_never_fewer_blocks_than_can_certify_anything():
    assert blocks_worth(10, 100, n=1000, block_size=2, alpha=0.001, tolerance=10.0) == 5
    assert blocks_worth(10, 100, n=10, block_size=4, alpha=0.001, tolerance=10.0) == 3
