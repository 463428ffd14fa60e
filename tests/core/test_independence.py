"""Logits that depend on the batch or on chance are found, and the module is named."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from rsray.core.independence import check_independence
from rsray.errors import UserError

SHAPE = (1, 8, 8)


def head(features=64):
    return [nn.Flatten(), nn.Linear(features, 3)]


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, *head(256)).eval()


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.inner = function, nn.Sequential(*head())

    def forward(self, images):
        return self.inner(self.function(images))


class Offset(nn.Module):
    """Small logits that mix the batch, and a large number that all of them share."""

    def __init__(self):
        super().__init__()
        self.inner = Function(lambda x: x - x.mean(0))

    def forward(self, images):
        return 10.0 + self.inner(images)


@pytest.mark.parametrize(
    "model",
    [
        network(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        network(nn.GroupNorm(2, 4), nn.Hardswish(inplace=True)),
        network(nn.InstanceNorm2d(4), nn.LayerNorm((4, 8, 8))),
        Function(lambda x: (x - x.mean((1, 2, 3), keepdim=True)) * 1e-6),
        Function(lambda x: x * 1e6 + 1e3),
        Function(lambda x: x * torch.nan),
        Function(torch.zeros_like),
        Function(lambda x: x.sub_(0.5).div_(0.25)),
        Function(lambda x: (torch.manual_seed(0), x + torch.randn(x.shape[1:]))[1]),
    ],
)
def test_ordinary_networks_pass(model):
    check_independence(model, SHAPE)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (network(nn.BatchNorm2d(4, track_running_stats=False)), r"module '1' \(BatchNorm2d\)"),
        (
            network(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False))),
            r"module '1.1' \(BatchNorm2d\)",
        ),
        (network(nn.Flatten(), nn.BatchNorm1d(256, track_running_stats=False)), "module '2'"),
        (Function(lambda x: x - x.mean(0)), r"the network \(Function\) itself"),
        (Function(lambda x: x + 0.01 * x.amax(0)), r"the network \(Function\) itself"),
        (Function(lambda x: x + 0.1 * x[:1]), r"the network \(Function\) itself"),
        (Function(lambda x: x.roll(1, 0) * 0.1 + x), r"the network \(Function\) itself"),
        (
            Function(lambda x: x.roll(1, 0) if len(x) > 32 else x),
            r"the network \(Function\) itself",
        ),
        (Offset(), "module 'inner'"),
    ],
)
def test_what_mixes_the_images_of_a_batch_is_named(model, named):
    with pytest.raises(UserError, match=f"^{named} .*other images of its batch"):
        check_independence(model.eval(), SHAPE)


class DropoutLeftOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Flatten(), nn.Linear(64, 3)

    def forward(self, images):
        return self.last(nn.functional.dropout(self.first(images), 0.3))


class AlwaysTraining(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


class Seldom(nn.Module):
    def forward(self, features):
        return features if torch.rand(()) < 0.9999 else -features


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (DropoutLeftOn(), r"the network \(DropoutLeftOn\) itself"),
        (network(nn.ReLU(), AlwaysTraining(0.1)), r"module '2' \(AlwaysTraining\)"),
        (Function(lambda x: x + 0.05 * torch.randn_like(x)), r"the network \(Function\) itself"),
        # Which seldom changes anything: a path that is dropped now and then, a crop at random.
        (Function(lambda x: x if torch.rand(()) < 0.9999 else -x), "the network"),
        (Function(lambda x: x if random.random() < 0.9999 else -x), "the network"),
        (Function(lambda x: x if np.random.rand() < 0.9999 else -x), "the network"),
        (network(nn.ReLU(), Seldom()), r"module '2' \(Seldom\)"),
    ],
)
def test_chance_in_evaluation_is_named(model, named):
    with pytest.raises(UserError, match=f"^{named}.*draws numbers of its own"):
        check_independence(model.eval(), SHAPE)


@pytest.mark.parametrize("forward", [
    lambda x: x.flatten(1)[:, :3].reshape(1, -1), lambda x: x.flatten(1)[:, :3].mean(0, True),
])  # fmt: skip
def test_logits_of_another_number_of_images_are_named(forward):
    model = Function(forward)
    model.inner = nn.Identity()
    with pytest.raises(UserError, match=r"returns shape .* for 8 images"):
        check_independence(model, SHAPE)


def test_several_outputs_are_no_logits():
    model = Function(lambda x: (x.flatten(1), x))
    model.inner = nn.Identity()
    with pytest.raises(UserError, match="returns a tuple, not logits"):
        check_independence(model, SHAPE)


def test_a_model_that_raises_raises_its_own_error():
    def broken(images):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        check_independence(Function(broken), SHAPE)


def test_the_model_and_torchs_own_generator_are_left_as_they_were():
    model = network(nn.BatchNorm2d(4))
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_independence(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
