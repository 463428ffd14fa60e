"""Whole steps against loops over single images and draws, which share no code with rsray."""

import pytest
import torch
from torch.nn.functional import cross_entropy, softmax

import rsray.objectives as objectives
from rsray.objectives.attacks.steps import pgd, with_noise
from rsray.objectives.probabilities import log_mean_softmax, of_label

from .tiny import SIGMA, B, K, M, Tiny, batch


def smoothed(network, image, noise):
    """Return the mean probability of an image's noisy copies."""
    return torch.stack([softmax(network((image + each)[None])[0], 0) for each in noise]).mean(0)


def uphill(loss_of, x):
    """Return the gradient of a loss, of length 1."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(leaf), leaf)
    return gradient / gradient.norm()


def within(change, radius):
    return change * min(1.0, radius / max(change.norm().item(), 1e-30))


def divergence(target, logits):
    return (target * (target.clamp(1e-30).log() - logits.log_softmax(0))).sum()


def smoothmix_of_one(network, image, label, noise, share, objective, warmth):
    """The method's loop for one image: classification and robustness, in nats."""
    x, start, size = image, image, objective.step_size
    for step in range(objective.num_steps):
        if step == objective.mix_step:
            start = x
        x = (x + size * uphill(lambda v: -smoothed(network, v, noise)[label].log(), x)).clamp(0, 1)
    start = image + within(start - image, warmth * objective.mix_step * size)
    mixed = (1 - share) * start + share * x
    mean = smoothed(network, start, noise)
    target = (1 - share) * mean + share / K
    logits = [(network((start + e)[None]), network((mixed + e)[None])[0]) for e in noise]
    classification = sum(cross_entropy(clean, label[None]) for clean, _ in logits) / len(noise)
    robustness = sum(divergence(target, other) for _, other in logits) / len(noise)
    weight = objective.trade_off * warmth * (mean.argmax() == label)
    return classification, weight * robustness


@pytest.mark.parametrize("epoch", [0, 4, 9])
@pytest.mark.parametrize("mix_step", [0, 1, 2])
def test_smoothmix(mix_step, epoch):
    settings = {"trade_off": 3.0, "step_size": 0.6, "num_steps": 4, "mix_step": mix_step}
    objective = objectives.SmoothMix(sigma=SIGMA, num_draws=M, **settings)
    network, (images, labels, noise) = Tiny().eval(), batch()
    labels[: B // 2] = log_mean_softmax(with_noise(network, noise)(images)).argmax(-1)[: B // 2]
    shares = torch.rand(B, generator=torch.Generator().manual_seed(5)) / 2
    found = objective.at_epoch(epoch, ()).step(
        network, images, labels, noise.clone(), generator=torch.Generator().manual_seed(5)
    )
    for i in range(B):
        expected = smoothmix_of_one(
            network, images[i], labels[i], noise[i], shares[i], objective, (epoch + 1) / 10
        )
        terms = found.terms.classification_B[i], found.terms.robustness_B[i]
        torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)


def catrs_attack_of_one(network, image, target, noise, epsilon, steps):
    """The method's loop for one draw: a step, the ball around it, its own mean and spread again."""
    own, x = noise, noise
    for _ in range(steps):
        x = x + 2 * epsilon / steps * uphill(
            lambda v: divergence(target, network((image + v)[None])[0]), x
        )
        x = own + within(x - own, epsilon)
        x = own.mean() + (x - x.mean()) / x.std() * own.std()
    return x


@pytest.mark.parametrize(("epsilon", "steps"), [(0.5, 4), (2.0, 1), (0.1, 2)])
def test_the_attack_of_catrs(epsilon, steps):
    objective = objectives.CatRsSelf(sigma=SIGMA, epsilon=epsilon, num_steps=steps)
    network, (images, _, noise) = Tiny().eval(), batch()
    targets = torch.rand(B, K, generator=torch.Generator().manual_seed(5)).softmax(-1)
    found = objective.attack(network, images, targets, noise)
    for i in range(B):
        for j in range(M):
            expected = catrs_attack_of_one(
                network, images[i], targets[i], noise[i, j], epsilon, steps
            )
            torch.testing.assert_close(found[i, j], expected, rtol=1e-4, atol=1e-4)


def test_the_step_of_catrs_trains_the_draws_and_the_worst_attacked_one():
    objective = objectives.CatRs(sigma=SIGMA, num_draws=M, trade_off=2.0, epsilon=0.5)
    network, (images, _, noise) = Tiny().eval(), batch()
    labels = with_noise(network, noise)(images).mean(1).argmax(-1)
    targets = torch.rand(B, K, generator=torch.Generator().manual_seed(5)).softmax(-1)
    found = objective.step(
        network, images, labels, noise.clone(), targets_BK=targets,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    attacked = objective.attack(network, images, targets, noise)
    shares = torch.rand(B, generator=torch.Generator().manual_seed(1))
    all_right = 0
    for i in range(B):
        logits = [network((images[i] + e)[None]) for e in noise[i]]
        right = sum(int(each.argmax() == labels[i]) for each in logits)
        law = torch.distributions.Binomial(M, torch.tensor(right / M))
        chances = law.log_prob(torch.arange(M + 1.0)).exp().cumsum(0)
        kept = max(1, int((chances[:-1] <= shares[i]).sum()))
        entropies = sorted(cross_entropy(each, labels[i][None]) for each in logits)
        worst = max(divergence(targets[i], network((images[i] + e)[None])[0]) for e in attacked[i])
        terms = found.terms.classification_B[i], found.terms.robustness_B[i]
        expected = sum(entropies[:kept]) / M, 2.0 * worst * (kept == M)
        torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)
        all_right += kept == M
    assert 0 < all_right < B


@pytest.mark.parametrize(("epsilon", "steps"), [(0.3, 4), (2.0, 2)])
def test_the_attack_of_smoothadv(epsilon, steps):
    """Also of smoothadv+consistency: steps of 2 epsilon / T, the ball, then the box."""
    network, (images, labels, noise) = Tiny().eval(), batch()

    def raised(logits, labels):
        return -of_label(log_mean_softmax(logits), labels)

    settings = {"epsilon": epsilon, "num_steps": steps}
    found = pgd(with_noise(network, noise), raised, images, labels, **settings)
    for i in range(B):
        x = images[i]
        for _ in range(steps):
            x = x + 2 * epsilon / steps * uphill(
                lambda v, i=i: -smoothed(network, v, noise[i])[labels[i]].log(), x
            )
            x = (images[i] + within(x - images[i], epsilon)).clamp(0, 1)
        torch.testing.assert_close(found[i], x, rtol=1e-4, atol=1e-5)
