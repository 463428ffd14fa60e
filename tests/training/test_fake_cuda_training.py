"""Training on a GPU, with tensors without values: devices agree, and nothing waits in the loop.

Where it waits, and may: at the end of an epoch (`EpochSums.read`, and the largest weight), and at
the end of a look at held-out images.
"""

import pytest
import torch
from fake_devices import CUDA, NoTransfers, fake_tensors, on_cpu, pretend_gpu
from torch._subclasses.fake_tensor import DataDependentOutputException

from rsray.objectives import OBJECTIVES
from rsray.presets import train_config
from rsray.training import validation
from rsray.training.batches import randomness
from rsray.training.loop import Training
from rsray.training.step import EpochSums


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Generators are on the CPU."""
    pretend_gpu(monkeypatch)
    made = on_cpu(randomness.seeded_generator)
    for module in (randomness, validation):
        monkeypatch.setattr(module, "seeded_generator", made)


@pytest.fixture(autouse=True)
def a_teacher(monkeypatch):
    """A teacher's targets for objectives that have one: nobody has counted here."""

    def targets_of(objective, split, indices):
        return None if objective.teacher is None else torch.full((len(indices), 10), 0.1)

    monkeypatch.setattr("rsray.training.loop.targets_of", targets_of)


def training(device, name="gaussian", **flat):
    settings = {
        "dataset": "digits", "objective": name, "batch_size": 8, "limit": 24, "validation": 0.3,
        "precision": "fp32", "augmentation": "crop-flip", "num_draws": 2, "epochs": 1,
    }  # fmt: skip
    return Training(train_config({**settings, **flat}), None, device)


def without_gradients(monkeypatch):
    """Torch's engine asks a GPU that is not here for its streams: the gradients are zeros."""

    def grad(loss, leaf):
        return (torch.zeros_like(leaf),)

    def backward(loss):
        for weight in watched.parameters():
            weight.grad = torch.zeros_like(weight)

    watched = torch.nn.Module()
    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    return watched


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_epoch_of_every_objective_waits_for_nothing(name, monkeypatch):
    watched, updates = without_gradients(monkeypatch), []

    def fused_update(weights, gradients, *_, **__):
        updates.append({tensor.device for tensor in [*weights, *gradients]})

    for optimiser in ("_fused_sgd_", "_fused_adam_"):
        monkeypatch.setattr(torch, optimiser, fused_update)
    with fake_tensors():
        here = training(CUDA, name, epochs=3)
        watched.model, watched.companion = here.model, here.companion
        assert here.model is not None and next(here.model.parameters()).device == CUDA
        sums = EpochSums(CUDA)
        here.held_in.tensors()
        with NoTransfers():
            here._make_steps(here.objective.at_epoch(2, ()), sums)
        with pytest.raises(DataDependentOutputException):
            sums.read()
    assert updates == [{CUDA}] * 3


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_gradients_of_every_objective_are_on_one_device(name, monkeypatch):
    # The meta device is no CPU either, and has gradients.
    meta = torch.device("meta")
    with fake_tensors():
        here = training(meta, name)
        here._make_steps(here.objective, EpochSums(meta))
        assert all(weight.grad.device == meta for weight in here.model.parameters())


def test_a_look_at_held_out_images_waits_at_its_end(monkeypatch):
    looks = []
    top_fraction = validation._top_fraction
    with fake_tensors():
        here = training(CUDA)
        here.held_out.tensors()

        def look(*arguments):
            with NoTransfers():
                looks.append(top_fraction(*arguments))
            return looks[-1]

        monkeypatch.setattr(validation, "_top_fraction", look)
        with pytest.raises(Exception, match="numpy|FakeTensor"):
            here.project_acr(16)
    assert len(looks) == 1 and all(found.device == CUDA for found in looks[0])
