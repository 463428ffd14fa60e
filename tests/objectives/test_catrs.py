"""CAT-RS: its two terms, its attack, its binomial number, and whose targets they are."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax, rel_entr, softmax

import rsray.objectives as objectives
from rsray.objectives import catrs

from .tiny import SIGMA, B, K, M, Tiny, batch

RNG = np.random.default_rng(0)


def test_its_terms_in_numpy():
    objective = objectives.CatRsSelf(sigma=SIGMA, trade_off=3.0)
    logits, attacked = RNG.normal(size=(2, 40, M, K)) * 2
    labels = logits.mean(1).argmax(1)
    labels[::3] = (labels[::3] + 1) % K
    target, share = softmax(logits, -1).mean(1), RNG.uniform(size=40)
    terms = objective.confident_terms(*map(torch.tensor, (logits, attacked, target, labels, share)))
    entropies = -log_softmax(logits, -1)[np.arange(40)[:, None], np.arange(M), labels[:, None]]
    right = (logits.argmax(-1) == labels[:, None]).mean(1)
    kept = np.maximum(1, stats.binom.ppf(share, M, right)).astype(int)
    easy = [np.sort(row)[:k].sum() / M for row, k in zip(entropies, kept, strict=True)]
    worst = rel_entr(target[:, None], softmax(attacked, -1)).sum(-1).max(1)
    assert len(set(kept)) == M
    np.testing.assert_allclose(terms.classification_B, easy, rtol=1e-9)
    np.testing.assert_allclose(terms.robustness_B, 3 * worst * (kept == M), rtol=1e-9)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_its_number_of_draws_is_binomial(p):
    share = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    drawn = catrs.binomial(torch.full_like(share, p), M, share).numpy()
    seen = np.bincount(drawn, minlength=M + 1) / len(drawn)
    np.testing.assert_allclose(seen, stats.binom.pmf(range(M + 1), M, p), atol=0.015)


def test_its_attack_raises_the_divergence_and_keeps_each_draw_like_noise():
    network = Tiny().eval()
    images, _, noise = batch()
    objective = objectives.CatRsSelf(sigma=SIGMA, epsilon=0.5)
    logits = catrs.with_noise(network, noise)(images)
    target = logits.softmax(-1).mean(1).detach()
    attacked = objective.attack(network, images, target, noise)
    before, after = (
        catrs.divergences(catrs.with_noise(network, x)(images), target).mean()
        for x in (noise, attacked)
    )
    assert after > 1.5 * before
    for moment in (lambda x: x.mean((2, 3, 4)), lambda x: x.square().mean((2, 3, 4)).sqrt()):
        torch.testing.assert_close(moment(attacked), moment(noise), atol=1e-5, rtol=1e-5)
    # It is restored after it is projected: so it is near the ball, not in it to the last digit.
    assert (attacked - noise).flatten(2).norm(dim=2).max() < 1.2 * 0.5
    assert not attacked.requires_grad and torch.equal(noise, batch()[2])


def test_its_targets_are_the_teachers_or_the_networks_own():
    network = Tiny().eval()
    images, labels, noise = batch()
    own = objectives.CatRsSelf(sigma=SIGMA)
    taught = objectives.CatRs(sigma=SIGMA, teacher="cert")

    def robustness(objective, **arguments):
        generator = torch.Generator().manual_seed(2)
        labels_B = network(images).argmax(-1)
        step = objective.step(
            network, images, labels_B, noise.clone(), generator=generator, **arguments
        )
        return step.terms.robustness_B

    logits = catrs.with_noise(network, noise.clone())(images)
    mean = logits.softmax(-1).mean(1)
    torch.testing.assert_close(robustness(taught, targets_BK=mean), robustness(own))
    other = torch.full((B, K), 1 / K)
    assert not torch.allclose(robustness(taught, targets_BK=other), robustness(own))
    with pytest.raises(ValueError, match="needs targets_BK"):
        taught.step(network, images, labels, noise.clone())


def test_without_its_robustness_term_and_all_right_it_is_cross_entropy():
    objective = objectives.CatRsSelf(sigma=SIGMA, trade_off=0.0)
    logits = torch.randn(B, M, K, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(B) % K
    logits[torch.arange(B), :, labels] += 20
    terms = objective.confident_terms(
        logits, logits, logits.softmax(-1).mean(1), labels, torch.full((B,), 0.5)
    )
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.repeat_interleave(M), reduction="none"
    )
    torch.testing.assert_close(terms.total_B, expected.view(B, M).mean(1))


def test_the_composed_objective_is_the_loss_of_one_on_the_images_of_the_other():
    settings = {"sigma": SIGMA, "num_draws": M, "num_steps": 3, "warm_up_epochs": 0}
    both = objectives.SmoothAdvConsistency(**settings, trade_off=2.0, entropy_weight=0.3)
    attack = objectives.SmoothAdv(**settings)
    loss = objectives.Consistency(sigma=SIGMA, num_draws=M, trade_off=2.0, entropy_weight=0.3)
    network = Tiny().eval()
    images, labels, noise = batch()
    moved = attack.attacked(network, images, labels, noise)[0]
    expected = loss.step(network, moved, labels, noise.clone()).terms
    found = both.step(network, images, labels, noise.clone()).terms
    torch.testing.assert_close(found.classification_B, expected.classification_B)
    torch.testing.assert_close(found.robustness_B, expected.robustness_B)
    with pytest.raises(ValueError, match="at least 2"):
        objectives.SmoothAdvConsistency(sigma=SIGMA, num_draws=1)
    with pytest.raises(ValueError, match="attack"):
        objectives.SmoothAdvConsistency(sigma=SIGMA, attack="none")


def test_smoothmix_with_a_mix_step_trains_on_the_image_after_it():
    network = Tiny().eval()
    images, labels, noise = batch()
    settings = {"sigma": SIGMA, "num_draws": M, "step_size": 0.2, "warm_up_epochs": 0}
    once = objectives.SmoothMix(**settings, num_steps=1, mix_step=1)
    step = once.step(network, images, labels, noise.clone(), generator=torch.Generator())
    plain = objectives.SmoothMix(**settings, num_steps=1)
    seen = []
    plain.step(lambda x: seen.append(x) or network(x), images, labels, noise.clone())
    assert (
        step.terms.classification_B.mean()
        > plain.step(network, images, labels, noise.clone()).terms.classification_B.mean()
    )
    with pytest.raises(ValueError, match="mix_step must be at most num_steps, 2, got 3"):
        objectives.SmoothMix(**settings, num_steps=2, mix_step=3)
