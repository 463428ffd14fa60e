"""Held-out images, and the projected ACR on them against brute force and a closed form."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint
from torch import nn

from rsray.data import open_split
from rsray.errors import UserError
from rsray.training import validation
from rsray.training.batches.randomness import seeded_generator
from rsray.training.validation import IMAGES_PER_NOISE_STREAM, project_acr

CPU = torch.device("cpu")


def radius_by_hand(fraction, sigma):
    """Return the radius that 100,000 draws would certify at alpha 0.001 (statsmodels, scipy)."""
    hits = round(fraction * 100_000)
    lower = proportion_confint(hits, 100_000, alpha=0.002, method="beta")[0]
    return sigma * norm.ppf(lower) if lower > 0.5 else 0.0


def tiny_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 2 * 3, 3))


def tiny_images(size=19):
    images = torch.randint(0, 256, (size, 2, 4, 5), generator=torch.Generator().manual_seed(1))
    return images.to(torch.uint8), torch.arange(size) % 3


def project_one_draw_at_a_time(model, images, labels, sigma, seed, num_draws):
    total, right = 0.0, 0
    model.eval()
    for start in range(0, len(images), IMAGES_PER_NOISE_STREAM):
        group = images[start : start + IMAGES_PER_NOISE_STREAM]
        draws = seeded_generator(CPU, seed, "validation", start)
        noise = torch.empty(len(group) * num_draws, 4, 5, 2).normal_(0, sigma, generator=draws)
        for row, image in enumerate(group):
            votes = np.zeros(3)
            for draw in range(num_draws):
                eta = noise[row * num_draws + draw].permute(2, 0, 1)
                with torch.no_grad():
                    votes[model((image / 255 + eta)[None]).argmax()] += 1
            if votes.argmax() == labels[start + row]:
                right += 1
                total += radius_by_hand(votes.max() / num_draws, sigma)
    return total / len(images), right / len(images)


def test_a_pass_on_a_cpu_takes_no_more_images_than_there_is_memory_for(monkeypatch):
    model, (images, labels) = tiny_model(), tiny_images()
    arguments = {"sigma": 0.2, "precision": "fp32", "seed": 7, "num_draws": 5}
    whole = project_acr(model, images, labels, **arguments)
    sizes = []
    model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    monkeypatch.setattr(validation, "CPU_VALUES", 7 * images[0].numel())
    assert project_acr(model, images, labels, **arguments) == whole
    assert max(sizes) == 7


def test_short_memory_takes_more_passes_to_the_same_figures(monkeypatch):
    class Small(nn.Module):
        """Has memory for seven images."""

        def __init__(self, model):
            super().__init__()
            self.model, self.most = model, 0

        def forward(self, images):
            if len(images) > 7:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.most = max(self.most, len(images))
            return self.model(images)

    still_raised = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: still_raised.append(sys.exc_info()[0]))
    model, (images, labels) = tiny_model(), tiny_images()
    arguments = {"sigma": 0.2, "precision": "fp32", "seed": 7, "num_draws": 5}
    small = Small(model)
    assert project_acr(small, images, labels, **arguments) == project_acr(
        model, images, labels, **arguments
    )
    assert 3 < small.most <= 7
    assert set(still_raised) == {None}, "what raised still holds the memory"


def test_brute_force():
    model, (images, labels) = tiny_model(), tiny_images()
    found = project_acr(model, images, labels, sigma=0.2, precision="fp32", seed=7, num_draws=31)
    acr, accuracy = project_one_draw_at_a_time(model, images, labels, 0.2, 7, 31)
    assert found.accuracy == accuracy and 0 < accuracy < 1
    assert found.acr == pytest.approx(acr, rel=1e-9) and acr > 0


def test_a_linear_classifier_has_a_closed_form():
    """P(w.(x + eta) + b > 0) = Phi((w.x + b) / (sigma |w|))."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(40, 2))
    weight = torch.linspace(-1, 1, 40)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weight, torch.zeros(40)]))
        model[1].bias.copy_(torch.tensor([0.1, 0.0]))
    images, _ = tiny_images(64)
    margin = (images.flatten(1).double() / 255 @ weight.double() + 0.1) / weight.double().norm()
    labels = (margin < 0).long()
    found = project_acr(model, images, labels, sigma=0.5, precision="fp32", seed=0, num_draws=2000)
    expected = np.mean([radius_by_hand(norm.cdf(abs(m) / 0.5), 0.5) for m in margin.tolist()])
    assert found.acr == pytest.approx(expected, abs=0.01)
    assert found.accuracy > 0.9


def test_the_same_draws_every_time_and_the_mode_is_kept():
    model, (images, labels) = tiny_model(), tiny_images()
    arguments = {"sigma": 0.5, "precision": "fp32", "num_draws": 33}
    model.train()
    torch.manual_seed(1)
    first = project_acr(model, images, labels, seed=1, **arguments)
    torch.manual_seed(2)
    assert project_acr(model, images, labels, seed=1, **arguments) == first, "dropout is off"
    assert project_acr(model, images, labels, seed=2, **arguments) != first
    assert (
        model.training and project_acr(model.eval(), images, labels, seed=1, **arguments) == first
    )
    assert not model.training


def test_a_hopeless_and_a_perfect_model():
    images, labels = tiny_images()

    class Always(nn.Module):
        def forward(self, images):
            return torch.eye(3)[[1]].expand(len(images), 3)

    found = project_acr(Always(), images, labels, sigma=0.5, precision="fp32", seed=0, num_draws=9)
    share = (labels == 1).double().mean().item()
    assert found.accuracy == pytest.approx(share)
    assert found.acr == pytest.approx(share * radius_by_hand(1.0, 0.5))
    assert math.isfinite(found.acr)


def test_held_out_images_are_training_images_that_are_not_trained_on(lab):
    training = lab.training(lab.config(validation=0.2, limit=100))
    held_in, held_out = training.held_in.indices, training.held_out.indices
    assert len(held_in) == 80 and len(held_out) == 20
    assert not set(held_in) & set(held_out)
    assert training.held_in.split.split == training.held_out.split.split == "train"
    assert len(np.unique(np.concatenate([held_in, held_out]))) == 100
    images, labels = training.held_out.tensors()
    train = open_split("digits", "train")
    np.testing.assert_array_equal(images.numpy(), train.images(held_out))
    np.testing.assert_array_equal(labels.numpy(), train.labels[held_out])
    # every image of an epoch comes from the training part
    positions = torch.cat([part.positions_B for part in training.schedule.shares(0)])
    assert sorted(positions.tolist()) == list(range(80))


def test_the_split_depends_on_the_seed_not_on_the_method(lab):
    def held_out(**changes):
        return lab.training(lab.config(validation=0.2, **changes)).held_out.indices.tolist()

    assert held_out() == held_out(objective="macer", sigma=1.0, lr=1.0)
    assert held_out() != held_out(seed=1)


def test_project_in_training(lab):
    training = lab.training(lab.config(validation=0.2, limit=400, epochs=5, lr=0.1, batch_size=16))
    before = training.project_acr(64)
    training.run_epochs()
    after = training.project_acr(64)
    assert after.acr > before.acr and after.accuracy > 0.5 and training.project_acr(64) == after
    with pytest.raises(UserError, match="validation is 0"):
        lab.training(lab.config()).project_acr(64)
