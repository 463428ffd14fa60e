"""How much memory a step takes on a CPU, and how many images fit."""

import numpy as np
import pytest
import torch
from torch import nn

from rsray.training.loop import Training
from rsray.training.memory import SavedBytes, bytes_per_image, group_that_fits
from rsray.training.opened_run import Team
from rsray.training.run_folder.run import recorded_group_size
from rsray.training.step import EpochSums


def test_what_autograd_keeps_is_counted_once_and_given_back():
    x = torch.zeros(1000, requires_grad=True)
    saved = SavedBytes()
    with saved:
        # Both keep the result of exp.
        y = x.exp()
        z = y.view(10, 100).sigmoid().exp() * 1.0
        assert saved.now == saved.most == 3 * 4000
        del y, z
        assert saved.now == 0
        x.exp()
    assert saved.most == 3 * 4000


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout())


def losses_of(module, count):
    return module(torch.ones(count, 1, 16, 16)).flatten(1).sum(1)


def test_each_image_takes_its_activations_and_nothing_changes():
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    chance = torch.get_rng_state()
    found = bytes_per_image(module, losses_of)
    # The image, the outputs of convolution, batch norm (and relu), and dropout's mask at least.
    planes = 16 * 16 * 4
    assert planes * (1 + 8 + 8) <= found <= planes * (1 + 8 * 5)
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("image_bytes", "num_images", "free", "expected"),
    [
        (10, 64, 2000, None), (10, 64, 1280, None), (10, 64, 1279, 32), (10, 64, 639, 16),
        (10, 64, 0, 2), (10, 2, 0, None), (0.0, 64, 0, None), (10, 33, 600, 16),
    ],
)  # fmt: skip
def test_a_group_takes_half_of_what_is_free(image_bytes, num_images, free, expected):
    assert group_that_fits(image_bytes, num_images, free) == expected
    if expected is not None:
        assert np.log2(expected) == round(np.log2(expected)) and expected < num_images


@pytest.fixture
def training_with(lab, monkeypatch, fit_group):
    monkeypatch.setattr(Training, "_fit_group", fit_group)

    def make(free, run=None, team=None):
        monkeypatch.setattr("rsray.training.loop.free_memory", lambda: free)
        return lab.training(lab.config(epochs=1), run, team)

    return make


def test_a_run_takes_the_images_that_fit_and_makes_the_same_weights(lab, training_with):
    whole = training_with(10**12)
    whole.run_epochs()
    assert whole.stepper.group_size is None
    needed = bytes_per_image(whole.model, lambda module, n: module(torch.zeros(n, 1, 8, 8)))
    run = lab.folder("run")
    parts = training_with(2 * 9 * needed, run)
    parts.run_epochs()
    assert parts.stepper.group_size == 8 and recorded_group_size(run) == 8
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    # A later start takes what the first one found, whatever is free then.
    assert training_with(10**12, run).stepper.group_size == 8


def test_workers_share_the_memory_of_a_machine_and_take_the_same(training_with):
    asked = []

    def sum_over(mine):
        # The other worker's machine has room for 2 at once.
        if len(mine) == 33:
            asked.append(int(mine.argmax()))
            mine = mine.clone()
            mine[1] += 1
        return mine

    alone = training_with(10**12)
    needed = bytes_per_image(alone.model, lambda module, n: module(torch.zeros(n, 1, 8, 8)))
    team = Team(0, 2, sum_over=sum_over, workers_here=2)
    training = training_with(4 * 5 * needed, team=team)
    sums = EpochSums(torch.device("cpu"))
    training._make_steps(training.objective, sums)
    assert asked == [2] and training.stepper.group_size == 2
