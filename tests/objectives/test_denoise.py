"""Denoised smoothing: the loss against its equation, and against what is known of two denoisers."""

import pytest
import torch
from torch import nn

from rsray.objectives import Denoise

from .tiny import SIGMA, B, K, M, Tiny, TinyDenoiser, batch


class Shrink(nn.Module):
    """Returns a share of the noisy image."""

    def __init__(self, share):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, images):
        return images * self.share


def stepped(denoiser, companion=None, **settings):
    images, labels, noise = batch(0)
    objective = Denoise(sigma=SIGMA, num_draws=M, **settings)
    return objective.step(denoiser, images, labels, noise, companion=companion), images


def test_the_error_of_a_network_that_changes_nothing_is_a_half():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(50, 1, 16, 16), torch.zeros(50, dtype=torch.int64)
    for sigma in (0.1, 1.0):
        noise = torch.randn(50, 4, 1, 16, 16, generator=generator) * sigma
        found = Denoise(sigma=sigma, num_draws=4).step(nn.Identity(), images, labels, noise)
        assert found.terms.total_B.mean().item() == pytest.approx(0.5, rel=0.02)
        assert found.logits_BMK.shape == (50, 4, 0), "no classifier takes part"


@pytest.mark.parametrize(("distance", "sign"), [(-0.05, -1), (0.05, 1)])
def test_the_best_share_of_a_noisy_image_is_wieners(distance, sign):
    """Of images with mean square s: s / (s + sigma^2) of the noisy image is the best."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(100, 1, 16, 16, generator=generator) * 0.5
    noise = torch.randn(100, 1, 1, 16, 16, generator=generator) * SIGMA
    denoiser = Shrink(0.25 / (0.25 + SIGMA**2) + distance)
    found = Denoise(sigma=SIGMA).step(denoiser, images, torch.zeros(100).long(), noise)
    found.terms.total_B.mean().backward()
    expected = distance * (0.25 + SIGMA**2) / SIGMA**2
    assert denoiser.share.grad.item() == pytest.approx(expected, rel=0.1)
    assert denoiser.share.grad.item() * sign > 0


def test_the_loss_is_its_equation():
    """Its targets are the classifier's own predictions of the clean images."""
    torch.manual_seed(0)
    denoiser, classifier = TinyDenoiser().eval(), Tiny(3).eval()
    images, labels, noise = batch(0)
    objective = Denoise(sigma=SIGMA, num_draws=M, trade_off=0.7)
    found = objective.step(denoiser, images, labels, noise.clone(), companion=classifier)
    with torch.no_grad():
        noisy = images[:, None] + noise
        denoised = torch.stack([denoiser(noisy[:, j]) for j in range(M)], dim=1)
        error = ((denoised - images[:, None]) ** 2).mean((1, 2, 3, 4)) / (2 * SIGMA**2)
        targets = classifier(images).argmax(1)
        logits = torch.stack([classifier(denoised[:, j]) for j in range(M)], dim=1)
        stability = (
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.repeat_interleave(M), reduction="none"
            )
            .reshape(B, M)
            .mean(1)
        )
    torch.testing.assert_close(found.terms.classification_B, error)
    torch.testing.assert_close(found.terms.robustness_B, 0.7 * stability)
    torch.testing.assert_close(found.logits_BMK, logits)
    assert not torch.equal(targets, labels), "it is not the labels that are learnt"


def test_without_trade_off_the_classifier_does_not_matter():
    denoiser, gradients = TinyDenoiser().eval(), []
    for companion in (None, Tiny(3)):
        found, _ = stepped(denoiser, companion, trade_off=0.0)
        denoiser.zero_grad()
        found.terms.total_B.mean().backward()
        gradients.append(denoiser.out.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_the_classifier_is_used_in_evaluation_mode_and_stays_as_it_is():
    classifier = Tiny(3).train()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    found, _ = stepped(TinyDenoiser(), classifier)
    found.terms.total_B.mean().backward()
    assert classifier.modes == [False, False] and classifier.training
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())
    assert found.logits_BMK.shape == (B, M, K)


def test_where_the_classifier_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Denoise(sigma=SIGMA).guide is None
    assert Denoise(sigma=SIGMA, classifier="runs/a").guide == f"{tmp_path}/runs/a"
    assert Denoise(sigma=SIGMA, classifier="s3://b/a").guide == "s3://b/a"
