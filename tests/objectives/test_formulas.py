"""Each loss against its equation in numpy float64, against finite differences and limits."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, ndtri, softmax

import rsray.objectives as objectives

SIGMA = 0.5
RNG = np.random.default_rng(0)


def draw(scale, num_images=40, num_draws=6, num_classes=5):
    logits = RNG.normal(size=(num_images, num_draws, num_classes)) * scale
    labels = RNG.integers(0, num_classes, num_images)
    logits[np.arange(num_images), :, labels] += scale * RNG.normal(1, 1, size=(num_images, 1))
    return logits, labels


def mean_nll(logits, labels):
    return -np.log(softmax(logits, -1).mean(1)[np.arange(len(labels)), labels] + 1e-10)


def mean_ce(logits, labels):
    return -np.stack([log_softmax(u, -1)[:, y] for u, y in zip(logits, labels, strict=True)]).mean(
        1
    )


def macer(logits, labels, objective):
    out = mean_nll(logits, labels)
    for i, (u, y) in enumerate(zip(logits, labels, strict=True)):
        z = softmax(objective.inverse_temperature * u, -1).mean(0)
        second, first = np.argsort(z)[-2:]
        gap = ndtri(z[first]) - ndtri(z[second])
        if first == y and np.isfinite(gap) and 0 <= gap <= objective.hinge:
            out[i] += objective.trade_off * SIGMA / 2 * (objective.hinge - gap)
    return out


def adre(logits, labels, objective):
    g = softmax(logits, -1).mean(1)
    wrong = [max(np.delete(row, y)) for row, y in zip(g, labels, strict=True)]
    ce = mean_ce(logits[:, : objective.classification_draws], labels)
    return ce + objective.trade_off * np.log(np.maximum(wrong, 1e-10))


def consistency(logits, labels, objective):
    z = softmax(logits, -1)
    mean = z.mean(1)
    kl = (mean[:, None] * np.log(mean[:, None] / z)).sum(-1).mean(1)
    entropy = -(mean * np.log(mean)).sum(-1)
    return mean_ce(logits, labels) + objective.trade_off * kl + objective.entropy_weight * entropy


def sodm(logits, labels, objective):
    g = softmax(logits, -1).mean(1)
    out = np.zeros(len(labels))
    for i, (row, y) in enumerate(zip(g, labels, strict=True)):
        if row.argmax() != y:
            out[i] = -np.log(row[y])
        elif row[y] < objective.threshold:
            out[i] = -objective.trade_off * ndtri(row[y])
    return out


CASES = {
    "gaussian": (objectives.Gaussian(sigma=SIGMA), lambda u, y, _: mean_nll(u, y)),
    "macer": (objectives.Macer(sigma=SIGMA), macer),
    "macer, hinge 2": (objectives.Macer(sigma=SIGMA, hinge=2.0, inverse_temperature=1.0), macer),
    "smoothadv": (objectives.SmoothAdv(sigma=SIGMA), lambda u, y, _: mean_ce(u, y)),
    "adre": (objectives.Adre(sigma=SIGMA, trade_off=0.3), adre),
    "adre, table 1": (objectives.Adre(sigma=SIGMA, trade_off=0.3, classification_draws=1), adre),
    "adre-adv": (objectives.AdreAdv(sigma=SIGMA, trade_off=0.2), adre),
    "consistency": (objectives.Consistency(sigma=SIGMA), consistency),
    "sodm": (objectives.Sodm(sigma=SIGMA), sodm),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_against_numpy_in_float64(case, scale):
    objective, reference = CASES[case]
    logits, labels = draw(scale)
    expected = reference(logits, labels, objective)
    loss = objective.loss(torch.tensor(logits), torch.tensor(labels))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-9, atol=1e-9)
    single = objective.loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels))
    np.testing.assert_allclose(single.numpy(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_gradient_by_finite_differences(case):
    objective, _ = CASES[case]
    logits, labels = draw(0.3, num_images=5, num_draws=3, num_classes=4)
    leaf = torch.tensor(logits, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: objective.loss(u, torch.tensor(labels)), (leaf,))


def test_sodm_by_branch():
    p = torch.tensor([[0.2, 0.8], [0.8, 0.2], [0.4, 0.6], [0.995, 0.005]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 0])
    terms = objectives.Sodm(sigma=SIGMA, trade_off=6.0).terms(p.log()[:, None], labels)
    np.testing.assert_allclose(terms.classification_B, [-np.log(0.2), 0, 0, 0], rtol=1e-9)
    expected = [0, -6 * ndtri(0.8), -6 * ndtri(0.6), 0]
    np.testing.assert_allclose(terms.robustness_B, expected, rtol=1e-9)


def test_stability_by_hand():
    objective = objectives.Stability(sigma=SIGMA, trade_off=2.0)
    clean, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([1])
    noisy = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    terms = objective.clean_terms(clean, noisy, labels)
    p = 1 / (1 + np.exp(-2))
    first = np.log(2)
    second = p * np.log1p(np.exp(-1)) + (1 - p) * (1 + np.log1p(np.exp(-1)))
    np.testing.assert_allclose(terms.classification_B, [2 + np.log1p(np.exp(-2))], rtol=1e-6)
    np.testing.assert_allclose(terms.robustness_B, [2 * (first + second) / 2], rtol=1e-6)


def test_stability_gradient_flows_through_both_passes():
    objective = objectives.Stability(sigma=SIGMA)
    clean = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    noisy = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2])
    assert torch.autograd.gradcheck(
        lambda u, v: objective.clean_terms(u, v, labels).total_B, (clean, noisy)
    )


def test_smoothmix_terms_in_numpy():
    objective = objectives.SmoothMix(sigma=SIGMA, trade_off=3.0)
    logits, labels = draw(1.0)
    mixed, _ = draw(1.0)
    share = RNG.uniform(0, 0.5, len(labels))
    terms = objective.mixed_terms(*map(torch.tensor, (logits, mixed, share, labels)))
    mean = softmax(logits, -1).mean(1)
    target = (1 - share[:, None]) * mean + share[:, None] / mean.shape[1]
    kl = (target[:, None] * (np.log(target)[:, None] - log_softmax(mixed, -1))).sum(-1).mean(1)
    right = mean.argmax(1) == labels
    assert right.any() and not right.all()
    np.testing.assert_allclose(terms.classification_B, mean_ce(logits, labels), rtol=1e-9)
    np.testing.assert_allclose(terms.robustness_B, 3 * kl * right, rtol=1e-9)


def smoothmix_robustness(logits, mixed, share, labels, detach_target):
    objective = objectives.SmoothMix(sigma=SIGMA, detach_target=detach_target)
    return objective.mixed_terms(logits, mixed, share, labels).robustness_B


def test_smoothmix_target_is_detached_unless_told():
    """Detached, the published formula; not, the gradient that differences give."""
    draws, labels = draw(1.0)
    leaf, labels = torch.tensor(draws, requires_grad=True), torch.tensor(labels)
    mixed = torch.tensor(draw(1.0)[0], requires_grad=True)
    share = torch.full((len(labels),), 0.3, dtype=torch.float64)
    held = smoothmix_robustness(leaf, mixed, share, labels, True)
    (gradient,) = torch.autograd.grad(held.sum(), mixed, retain_graph=True)
    assert gradient.abs().sum() > 0 and held.requires_grad
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(held.sum(), leaf)
    assert torch.autograd.gradcheck(
        lambda u, v: smoothmix_robustness(u, v, share, labels, False), (leaf, mixed)
    )


def test_smoothmix_target_has_a_gradient_where_a_probability_is_zero():
    """In float32 a class 300 nats below the others has probability 0, as its share of 0 has."""
    logits = torch.tensor([[[0.0, -300.0, 1.0]], [[5.0, 0.0, 0.0]]], requires_grad=True)
    mixed, labels = torch.zeros(2, 1, 3), torch.tensor([2, 0])
    share = torch.tensor([0.0, 0.2])
    smoothmix_robustness(logits, mixed, share, labels, False).sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[0].abs().sum() > 0


def test_infinite_inverse_temperature_gives_the_hard_radius():
    counts = {0: 5, 2: 2, 3: 1}  # of 8 draws, by class
    votes = [c for c, n in counts.items() for _ in range(n)]
    logits = (
        torch.randn(8, 4, dtype=torch.float64) * 0.01 + torch.eye(4, dtype=torch.float64)[votes]
    )
    objective = objectives.Macer(sigma=SIGMA, inverse_temperature=1e4, num_draws=8)
    robustness = objective.terms(logits[None], torch.tensor([0])).robustness_B
    hard_radius = SIGMA / 2 * (ndtri(5 / 8) - ndtri(2 / 8))
    expected = objective.trade_off * (SIGMA / 2 * objective.hinge - hard_radius)
    np.testing.assert_allclose(robustness, [expected], rtol=1e-9)


def test_consistency_of_equal_draws_is_their_entropy():
    logits = torch.randn(3, 1, 4, dtype=torch.float64).expand(-1, 5, -1)
    objective = objectives.Consistency(sigma=SIGMA, trade_off=10.0, entropy_weight=0.5)
    entropy = torch.distributions.Categorical(logits=logits[:, 0]).entropy()
    terms = objective.terms(logits, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(terms.robustness_B, 0.5 * entropy)


def test_adre_is_bounded_below():
    logits = torch.zeros(1, 2, 3)
    logits[..., 0] = 1e4
    loss = objectives.Adre(sigma=SIGMA, trade_off=1.0).loss(logits, torch.tensor([0]))
    np.testing.assert_allclose(loss, [np.log(1e-10)], rtol=1e-6)
