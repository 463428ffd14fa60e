import dataclasses

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from rsray.core.radius import round_down
from rsray.errors import UserError
from rsray.results import formats
from rsray.results.paired import compare_all, compare_pair

RADII = np.array([0.0, 0.25, 0.5])


@pytest.fixture
def pair(make):
    """Two results on the same labels, the second with other radii and some other answers."""
    first, rng = make(400, name="first"), np.random.default_rng(1)
    flipped = rng.random(400) < 0.1
    prediction = np.where(flipped, (first.label + 3) % 10, first.prediction).astype(np.int32)
    radius = np.where(prediction < 0, 0.0, np.abs(first.radius + rng.normal(0.05, 0.1, 400)))
    second = dataclasses.replace(
        first,
        name="second",
        prediction=prediction,
        radius=radius,
        correct=prediction == first.label,
    )
    return first, second


def test_against_scipy_and_statsmodels(pair):
    first, second = pair
    found = compare_pair(second, first, RADII)
    a, b = first.radius * first.correct, second.radius * second.correct
    test = stats.ttest_rel(b, a)
    interval = test.confidence_interval(0.95)
    assert found.difference == pytest.approx(second.acr - first.acr, abs=1e-12)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.is_told_apart == (test.pvalue < 0.05)
    assert (found.larger, found.smaller) == (np.sum(b > a), np.sum(b < a))
    assert found.sign_p == pytest.approx(
        stats.binomtest(int(np.sum(b > a)), int(np.sum(b != a))).pvalue
    )
    for r, at in zip(RADII, found.at, strict=True):
        x, y = first.correct & (first.radius >= r), second.correct & (second.radius >= r)
        table = [[np.sum(x & y), np.sum(x & ~y)], [np.sum(~x & y), np.sum(~x & ~y)]]
        assert (at.gained, at.lost) == (table[1][0], table[0][1])
        assert at.p_value == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)


def test_so_many_images_tell_it_apart_four_times_of_five(pair):
    first, second = pair
    needed = compare_pair(second, first, RADII).images_needed
    gain = second.radius * second.correct - first.radius * first.correct
    rng = np.random.default_rng(0)
    draws = rng.choice(gain, (2000, needed))
    found = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert 0.76 < found < 0.86


def test_only_the_common_images_count_and_failed_ones_are_0(pair, without):
    first, second = pair
    image = int(second.index[second.correct & (second.radius > 0.3)][0])
    short = without(second, image)
    part = dataclasses.replace(
        first, **{name: column[:100] for name, column in first.columns().items()}
    )
    found = compare_pair(short, part, RADII)
    assert found.num_images == 100
    right = (second.correct & (second.index != image))[:100]
    expected = np.mean(second.radius[:100] * right) - part.acr
    assert found.difference == pytest.approx(expected, abs=1e-12)


def test_results_that_are_equal_and_that_cannot_be_paired(pair, make):
    first, _ = pair
    same = compare_pair(dataclasses.replace(first, name="copy"), first, RADII)
    assert same.difference == 0 and same.images_needed is None and same.sign_p == 1.0
    assert not same.is_told_apart
    other = dataclasses.replace(first, label=(first.label + 1) % 10)
    with pytest.raises(UserError, match="cannot be paired: labels differ"):
        compare_pair(other, first, RADII)
    shapes = [{**first.metadata, "image_shape": [1, size, size]} for size in (28, 32)]
    small, large = (dataclasses.replace(first, metadata=metadata) for metadata in shapes)
    with pytest.raises(UserError, match="cannot be paired: image_shape differs"):
        compare_pair(small, large, RADII)
    trained = dataclasses.replace(first, metadata={**first.metadata, "split": "train"})
    tested = dataclasses.replace(first, metadata={**first.metadata, "split": "test"})
    with pytest.raises(UserError, match="cannot be paired: split differs"):
        compare_pair(trained, tested, RADII)
    with pytest.raises(UserError, match="share no image"):
        compare_pair(make(3, start=1000), first, RADII)
    with pytest.raises(UserError, match="at least two"):
        compare_all([first], RADII)


@pytest.mark.parametrize("decimals", [3, 9])
def test_what_a_log_has_rounded_tells_no_results_apart(pair, decimals):
    first, second = pair
    log = dataclasses.replace(first, radius=round_down(first.radius, decimals))
    same = compare_pair(log, first, RADII)
    assert (same.larger, same.smaller, same.difference) == (0, 0, 0.0)
    assert not same.is_told_apart and same.images_needed is None
    found, exact = compare_pair(second, log, RADII), compare_pair(second, first, RADII)
    assert found.is_told_apart == exact.is_told_apart
    assert found.difference == pytest.approx(exact.difference, abs=1e-3)


def test_a_run_that_decided_a_few_radii_is_compared_at_these(pair):
    first, second = pair
    few = dataclasses.replace(second, metadata={**second.metadata, "at_radius": [0.25]})
    found = compare_pair(few, first, RADII)
    assert found.difference is None and found.sign_p is None and found.images_needed is None
    assert [at is None for at in found.at] == [True, False, True]
    assert "-" in compare_all([first, few], RADII).cells()[0]


@pytest.mark.parametrize("name", formats.TEXT_FORMATS)
def test_every_format_has_every_figure(pair, name):
    shown = compare_all(pair, RADII)
    text = formats.TEXT_FORMATS[name](shown)
    assert "second" in text and "McNemar" in text
    assert all(len(row) == len(shown.header) for row in [*shown.cells(), *shown.values()])
