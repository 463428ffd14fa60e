"""A linear classifier's smoothed probabilities and robust radii are exact: certificates obey them.

f(x) = class 1 where w.x + b > 0, else class 0. Under noise of sigma, P(class 1) = Phi(m / sigma)
with margin m = (w.x + b) / |w|; the smoothed classifier predicts sign(m) and its true l2 radius
is |m|. A certificate fails when it names the other class or a radius beyond |m|; each fails with
probability at most ALPHA.
"""

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.core.bounds import BOUNDS
from rsray.core.bounds.clopper_pearson import CLOPPER_PEARSON
from rsray.core.decide import predict_hard
from rsray.core.evidence import ABSTAIN, Evidence
from rsray.core.smoothed import SmoothedClassifier

ALPHA = 0.05  # large, so that failures happen and can be counted
SIGMA = 0.25
N0, N = 20, 300


def at_most(alpha, trials):
    """Failures that `trials` certificates may show: the mean plus four standard deviations."""
    return alpha * trials + 4 * np.sqrt(trials * alpha * (1 - alpha))


def failures(prediction_N, radius_N, margin_N):
    said = prediction_N != ABSTAIN
    return said & ((prediction_N != (margin_N > 0)) | (radius_N > np.abs(margin_N)))


def two(hits, n):
    return np.stack([n - hits, hits], axis=1)


@pytest.mark.parametrize("n", [100, 1000, 100_000])
@pytest.mark.parametrize("spread", [0.02, 0.5])
def test_drawn_counts(n, spread):
    # spread 0.02: margins so small that selection errs half the time; 0.5: ordinary images.
    rng, trials = np.random.default_rng([n, int(100 * spread)]), 5000
    margin = rng.normal(0, spread, trials)
    p = special.ndtr(margin / SIGMA)
    selection, estimation = two(rng.binomial(N0, p), N0), two(rng.binomial(n, p), n)
    decision = CLOPPER_PEARSON.decide(
        Evidence.of_counts(selection, estimation), sigma=SIGMA, alpha=ALPHA
    )
    failed = failures(decision.prediction, decision.radius, margin)
    assert failed.sum() <= at_most(ALPHA, trials)


def test_the_bound_is_used_up():
    # Not only sound: at one margin nearly ALPHA of the certificates reach beyond the truth.
    rng, trials = np.random.default_rng(8), 20_000
    margin = np.full(trials, 0.2)
    p = special.ndtr(margin / SIGMA)
    evidence = Evidence.of_counts(
        two(rng.binomial(N0, p), N0),
        two(rng.binomial(10_000, p), 10_000),
    )
    decision = CLOPPER_PEARSON.decide(evidence, sigma=SIGMA, alpha=ALPHA)
    failed = failures(decision.prediction, decision.radius, margin).sum()
    assert 0.9 * ALPHA * trials <= failed <= at_most(ALPHA, trials)


def test_predict_on_drawn_counts():
    rng, trials = np.random.default_rng(9), 5000
    margin = rng.normal(0, 0.02, trials)
    counts = two(rng.binomial(200, special.ndtr(margin / SIGMA)), 200)
    prediction, _ = predict_hard(counts, alpha=ALPHA)
    wrong = (prediction != ABSTAIN) & (prediction != (margin > 0))
    assert 0 < wrong.sum() <= at_most(ALPHA, trials)


@pytest.fixture(scope="module")
def linear():
    """A linear model of two logits, images uint8 around its boundary, and their exact margins."""
    rng = np.random.default_rng(10)
    weight = rng.normal(size=64).astype(np.float32)
    images = rng.integers(0, 256, (600, 1, 8, 8), dtype=np.uint8)
    bias = np.float32(-weight.sum() / 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight[0], model[1].weight[1] = 0.0, torch.from_numpy(weight)
        model[1].bias[0], model[1].bias[1] = 0.0, float(bias)
    weight = weight.astype(np.float64)
    margin = ((images.reshape(-1, 64) / 255.0) @ weight + bias) / np.linalg.norm(weight)
    return model, images, margin


def test_real_draws_through_the_smoothed_classifier(linear):
    model, images, margin = linear
    smoothed = SmoothedClassifier(model, SIGMA, 2)
    generator = torch.Generator().manual_seed(0)
    certificates = [
        smoothed.certify(torch.from_numpy(image) / 255, N0, N, ALPHA, generator) for image in images
    ]
    prediction = np.array([each.prediction for each in certificates])
    radius = np.array([each.radius for each in certificates])
    assert failures(prediction, radius, margin).sum() <= at_most(ALPHA, len(images))
    assert np.mean(prediction != ABSTAIN) > 0.7
    # No test could be sharper than this: on average a radius is a little below the truth.
    short = (np.abs(margin) - radius)[(prediction >= 0) & (np.abs(margin) < SIGMA)]
    assert 0 < short.mean() < 0.25 * SIGMA


def test_real_draws_through_the_counting_engine(linear):
    model, images, margin = linear
    sampler = Sampler(
        model,
        Evaluation("cpu", "fp32", "channels_last", 64),
        image_shape=(1, 8, 8),
        num_classes=2,
        sigma=SIGMA,
        seed=0,
    )
    blocks = [(0, 200), (1, 100)]
    selection = [sampler.counts(x, i, "selection", [(0, N0)])[0] for i, x in enumerate(images)]
    estimation = [sampler.counts(x, i, "estimation", blocks).sum(0) for i, x in enumerate(images)]
    evidence = Evidence.of_counts(
        np.stack(selection),
        np.stack(estimation),
    )
    decision = CLOPPER_PEARSON.decide(evidence, sigma=SIGMA, alpha=ALPHA)
    assert np.all(decision.n == N)
    failed = failures(decision.prediction, decision.radius, margin)
    assert failed.sum() <= at_most(ALPHA, len(images))
    # The hits themselves are binomial with the exact probability: z-scores have mean 0, spread 1.
    p = special.ndtr(margin / SIGMA)
    unsaturated = (p > 0.02) & (p < 0.98)
    z = ((np.stack(estimation)[:, 1] - N * p) / np.sqrt(N * p * (1 - p)))[unsaturated]
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * len(z))


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_soft_bounds_at_an_inverse_temperature(linear, beta):
    """The mean of softmax(beta * logits) is an integral; blocks of draws are trials of the bounds."""
    model, images, margin = linear
    i = int(np.abs(margin - 0.1).argmin())
    norm = float(model[1].weight[1].detach().norm())
    at, weight = np.polynomial.hermite_e.hermegauss(200)
    steep = special.expit(beta * norm * (margin[i] + SIGMA * at))
    truth = np.dot(steep, weight) / np.sqrt(2 * np.pi)

    def sums_at(inverse_temperature):
        engine = Sampler(
            model, Evaluation("cpu", "fp32", "channels_last", 500), image_shape=(1, 8, 8),
            num_classes=2, sigma=SIGMA, seed=0, inverse_temperature=inverse_temperature,
        )  # fmt: skip
        _, sums, squares = engine.moments(images[i], i, "estimation", blocks)
        return sums[:, 1], squares[:, 1]

    draws, trials = 100, 400
    blocks = [(block, draws) for block in range(trials)]
    sums, squares = sums_at(beta)

    def is_mean(sums):
        return abs(sums.mean() / draws - truth) < 4 * sums.std() / draws / np.sqrt(trials)

    def failed(bound, alpha):
        lower = BOUNDS[bound].lower(sums, squares, draws, alpha)
        return (lower > truth).sum()

    assert is_mean(sums) and not is_mean(sums_at(2.0)[0])
    for bound, wrong_level in (("hoeffding", 0.999), ("bernstein", 1.999)):
        assert failed(bound, ALPHA) <= at_most(ALPHA, trials) < failed(bound, wrong_level)


def test_the_class_changes_where_the_closed_form_says(linear):
    # Moving an image by its true radius against the weights puts it on the boundary.
    model, images, margin = linear
    weight = model[1].weight[1].detach()
    direction = (weight / weight.norm()).view(1, 8, 8)
    # Half the contrast and half the margin, so that it stays in [0, 1] when it is moved.
    image, margin_of_it = torch.from_numpy(images[0]) / 510 + 0.25, float(margin[0]) / 2
    smoothed = SmoothedClassifier(model, SIGMA, 2, batch_size=4000)
    own, generator = int(margin[0] > 0), torch.Generator().manual_seed(0)
    for fraction, expected in ((0.9, own), (1.1, 1 - own)):
        moved = image - fraction * margin_of_it * direction
        assert smoothed.predict(moved, 20_000, ALPHA, generator).prediction == expected
