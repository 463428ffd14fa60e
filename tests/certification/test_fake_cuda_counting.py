"""The engine on a GPU, with tensors without values: devices agree, and nothing waits in a batch.

Where it waits, and may: at the end of a call, for the counts and for whether a logit was NaN.
"""

import numpy as np
import pytest
import torch
from fake_devices import CPU, CUDA, NoTransfers, fake_tensors, pretend_gpu
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from rsray.certification.engine import evaluation as engine
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.fold import Folded
from rsray.certification.engine.sampler import Sampler
from rsray.core import grid_noise
from rsray.core.grid_noise import TorchUniform
from rsray.core.noise import Stream

SHAPE = (3, 8, 8)
IMAGE = np.zeros(SHAPE, dtype=np.uint8)
BLOCKS = [(0, 70), (1, 70), (2, 5)]
CASES = [(noise, precision) for noise in ("grid", "float") for precision in ("fp32", "fp16")]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Generators are on the CPU, and folding compares no logits."""
    generator, mean = Stream.generator, torch.full((3,), 0.5)
    monkeypatch.setattr(Stream, "generator", lambda stream, device: generator(stream, CPU))
    words = lambda _, count: torch.empty(count, dtype=torch.int64, device=CUDA)  # noqa: E731
    monkeypatch.setattr(TorchUniform, "words", words)
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(engine, "fold", lambda model, shape: Folded(model, mean, mean, True))
    # They hold fake tensors.
    grid_noise._grid_noise.cache_clear()
    yield
    grid_noise._grid_noise.cache_clear()


def sampler_of(noise, precision):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    return Sampler(
        model.to(CUDA),
        Evaluation("cuda", precision, "channels_last", 64),
        image_shape=SHAPE,
        num_classes=5,
        sigma=0.25,
        seed=1,
        noise=noise,
    )


@torch.no_grad()
@pytest.mark.parametrize(("noise", "precision"), CASES)
def test_hard_counts_wait_for_nothing_until_they_are_counted(noise, precision):
    with fake_tensors():
        sampler = sampler_of(noise, precision)
        with NoTransfers():
            classes_D, is_bad = sampler._classes(IMAGE, sampler._streams(0, "estimation", BLOCKS))
        assert classes_D.device == is_bad.device == CUDA and classes_D.shape == (145,)
        with NoTransfers(), pytest.raises((AssertionError, RuntimeError)):
            sampler._count_by_block(classes_D, [70, 70, 5], is_bad)


@pytest.mark.parametrize(("noise", "precision"), CASES)
def test_soft_sums_wait_for_nothing_until_all_are_made(noise, precision):
    with fake_tensors():
        sampler, passes = sampler_of(noise, precision), []
        logits = sampler._network.logits
        sampler._network.logits = lambda: passes.append(1) or logits()
        with NoTransfers(), pytest.raises(DataDependentOutputException):
            sampler.moments(IMAGE, 0, "estimation", BLOCKS)
        assert len(passes) == 3
