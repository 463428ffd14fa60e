"""Radii and their summaries by brute force."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from rsray.config import CertifyConfig
from rsray.core.radius import (
    acr_standard_error,
    average_certified_radius,
    certified_accuracy,
    certified_radius,
    largest_radius,
    round_down,
    two_sided_radius,
)
from rsray.errors import UserError

PHI = NormalDist()


@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0])
def test_radius_is_sigma_times_the_normal_quantile(sigma):
    p = np.concatenate([np.linspace(0.5001, 0.9999, 400), [1 - 1e-6, 1 - 1e-12]])
    want = [sigma * PHI.inv_cdf(each) for each in p]
    np.testing.assert_allclose(certified_radius(p, sigma), want, rtol=1e-11)


def test_radius_is_0_up_to_one_half():
    assert np.array_equal(certified_radius([0.0, 1e-9, 0.3, 0.5], 0.5), np.zeros(4))
    assert certified_radius(np.nextafter(0.5, 1), 0.5) > 0
    assert certified_radius(1.0, 0.5) == math.inf
    assert certified_radius(float("nan"), 0.5) == 0


def test_two_sided_radius_by_hand():
    rng = np.random.default_rng(0)
    p_a, p_b = rng.uniform(0.01, 0.99, 500), rng.uniform(0.01, 0.99, 500)
    for a, b, got in zip(p_a, p_b, two_sided_radius(p_a, p_b, 0.5), strict=True):
        b = min(b, 1 - a)
        want = 0.25 * (PHI.inv_cdf(a) - PHI.inv_cdf(b)) if a > b else 0.0
        assert got == pytest.approx(want, rel=1e-10, abs=1e-15)


def test_two_sided_radius_is_never_below_the_one_sided():
    p = np.linspace(0, 1, 101)
    np.testing.assert_allclose(two_sided_radius(p[:-1], 1.0, 0.25), certified_radius(p[:-1], 0.25))
    assert np.all(two_sided_radius(p[:-1], 0.1, 0.25) >= certified_radius(p[:-1], 0.25))
    assert np.all(np.isfinite(two_sided_radius([0.0, 0.0, 0.3], [0.0, 1.0, 0.9], 0.25)))


def test_largest_radius_is_the_fields_figure():
    # n = 100000, alpha = 0.001: 3.8 sigma, the end of every published curve.
    want = 0.25 * PHI.inv_cdf(0.001 ** (1 / 100_000))
    assert largest_radius(0.25, 100_000, 0.001) == pytest.approx(want, rel=1e-9)
    assert largest_radius(0.25, 100_000, 0.001) == pytest.approx(0.952, abs=1e-3)


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    radius = np.where(rng.random(300) < 0.2, 0.0, rng.choice(np.arange(13) / 8, 300))
    return radius, rng.random(300) < 0.7


def test_acr_and_its_error_by_brute_force(rows):
    radius, correct = rows
    each = [r if c else 0.0 for r, c in zip(radius.tolist(), correct.tolist(), strict=True)]
    mean = math.fsum(each) / 300
    assert average_certified_radius(radius, correct) == pytest.approx(mean, rel=1e-14)
    variance = math.fsum((value - mean) ** 2 for value in each) / 299
    assert acr_standard_error(radius, correct) == pytest.approx(math.sqrt(variance / 300))


def test_certified_accuracy_by_brute_force(rows):
    radius, correct = rows
    at = np.arange(0, 2.1, 0.125)  # hits every tie: "radius >= r" includes equality
    want = [sum(c and r >= a for r, c in zip(radius, correct, strict=True)) / 300 for a in at]
    assert certified_accuracy(radius, correct, at).tolist() == want
    assert certified_accuracy(radius, correct, 0.0) == correct.mean()


def test_acr_is_the_area_under_the_curve(rows):
    radius, correct = rows
    at = (np.arange(20_000) + 0.5) * 1e-4
    area = certified_accuracy(radius, correct, at).sum() * 1e-4
    assert average_certified_radius(radius, correct) == pytest.approx(area, abs=1e-4)


def test_summaries_of_no_and_of_one_image():
    assert math.isnan(average_certified_radius([], []))
    assert math.isnan(acr_standard_error([0.3], [True]))
    assert certified_accuracy([], [], [0.0, 1.0]).tolist() == [0.0, 0.0]


def test_rounding_is_down_and_tight():
    rng = np.random.default_rng(0)
    printed = np.arange(4001) / 1000
    radius = np.concatenate(
        [rng.uniform(0, 4, 20_000), printed, np.nextafter(printed, 9), np.nextafter(printed, 0)]
    )
    texts = [f"{r:.3f}" for r in round_down(radius)]
    back = np.array([float(text) for text in texts])
    assert np.all(back <= radius) and np.all(back + 0.001 > radius - 1e-12)
    np.testing.assert_array_equal(round_down(printed), printed)


def test_an_error_does_not_promise_more_than_can_be_reached():
    values = {"source": "R", "model_digest": "d", "dataset": "digits", "model": "lenet"}
    values |= {"num_classes": 10, "sigma": 0.5, "n": 10_000}
    with pytest.raises(UserError, match="largest radius is 1.5766$"):
        CertifyConfig.make({**values, "at_radius": (3.0,)})
    CertifyConfig.make({**values, "at_radius": (1.5766,)})
