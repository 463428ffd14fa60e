"""The engine on a GPU, with tensors without values: devices agree, and nothing waits in a batch.

Where it waits, and may: at the end of a call, for the counts and for whether a logit was NaN.
"""

import numpy as np
import pytest
import torch
from fake_devices import CPU, CUDA, NoTransfers, fake_tensors, pretend_gpu
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from rsray.certification.clean_accuracy import clean_accuracies
from rsray.certification.engine import evaluation as engine
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.fold import Folded
from rsray.certification.engine.sampler import Sampler
from rsray.config import TrainConfig
from rsray.core import grid_noise
from rsray.core.grid_noise import TorchUniform
from rsray.core.noise import Stream
from rsray.core.smoothed import SmoothedClassifier
from rsray.data.reading.in_memory import ArraySplit
from rsray.models import Normalisation, Normalise
from rsray.models.dncnn import dncnn6
from rsray.models.mean_logits import MeanLogits
from rsray.training.run_folder.run import _check_steps_of_one_copy

SHAPE = (3, 8, 8)
IMAGE = np.zeros(SHAPE, dtype=np.uint8)
BLOCKS = [(0, 70), (1, 70), (2, 5)]
CASES = [
    *((noise, precision, "one") for noise in ("grid", "float") for precision in ("fp32", "fp16")),
    *(("grid", precision, kind) for precision in ("fp32", "fp16") for kind in ("many", "denoised")),
]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Generators are on the CPU, and folding compares no logits."""
    generator, mean = Stream.generator, torch.full((3,), 0.5)
    monkeypatch.setattr(Stream, "generator", lambda stream, device: generator(stream, CPU))
    words = lambda _, count: torch.empty(count, dtype=torch.int64, device=CUDA)  # noqa: E731
    monkeypatch.setattr(TorchUniform, "words", words)
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(engine, "fold", lambda model, shape: Folded(model, mean, mean))
    # They hold fake tensors.
    grid_noise._grid_noise.cache_clear()
    yield
    grid_noise._grid_noise.cache_clear()


def network(*first):
    body = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    return nn.Sequential(*first, *body)


# An ensemble's members normalise images each in its own way, a denoiser stands before that.
NETWORKS = {
    "one": network,
    "many": lambda: MeanLogits([network(Normalise([0.5] * 3, [0.2] * 3)), network()]),
    "denoised": lambda: nn.Sequential(dncnn6(SHAPE), network(Normalise([0.5] * 3, [0.2] * 3))),
}


def sampler_of(noise, precision, kind="one"):
    return Sampler(
        NETWORKS[kind]().eval().to(CUDA),
        Evaluation("cuda", precision, "channels_last", 64),
        image_shape=SHAPE,
        num_classes=5,
        sigma=0.25,
        seed=1,
        noise=noise,
    )


@torch.no_grad()
@pytest.mark.parametrize(("noise", "precision", "kind"), CASES)
def test_hard_counts_wait_for_nothing_until_they_are_counted(noise, precision, kind):
    with fake_tensors():
        sampler = sampler_of(noise, precision, kind)
        with NoTransfers():
            classes_D, is_bad = sampler._classes(IMAGE, sampler._streams(0, "estimation", BLOCKS))
        assert classes_D.device == is_bad.device == CUDA and classes_D.shape == (145,)
        with NoTransfers(), pytest.raises((AssertionError, RuntimeError)):
            sampler._count_by_block(classes_D, [70, 70, 5], is_bad)


@torch.no_grad()
def test_small_blocks_share_the_kernels_that_make_their_noise(monkeypatch):
    searches, search = [], grid_noise.GridNoise._by_search

    def counted(noise, words):
        searches.append(len(words))
        return search(noise, words)

    monkeypatch.setattr(grid_noise.GridNoise, "_by_search", counted)
    with fake_tensors():
        sampler = sampler_of("grid", "fp32")
        sampler._classes(IMAGE, sampler._streams(0, "estimation", BLOCKS))
    assert searches == [145 * 3 * 8 * 8]


@pytest.mark.parametrize(("noise", "precision", "kind"), CASES)
def test_soft_sums_wait_for_nothing_until_all_are_made(noise, precision, kind):
    with fake_tensors():
        sampler, passes = sampler_of(noise, precision, kind), []
        logits = sampler._network.logits
        sampler._network.logits = lambda: passes.append(1) or logits()
        with NoTransfers(), pytest.raises(DataDependentOutputException):
            sampler.moments(IMAGE, 0, "estimation", BLOCKS)
        assert len(passes) == 3


def test_a_smoothed_classifier_waits_for_nothing_until_all_draws_are_made(monkeypatch):
    with fake_tensors():
        smoothed, drawn = SmoothedClassifier(network().eval().to(CUDA), 0.25, 5), []

        def noisy_copies(size):
            drawn.append(size)
            return torch.zeros((size, *SHAPE), device=CUDA)

        monkeypatch.setattr(smoothed, "_noisy_copies", lambda *given: noisy_copies)
        with NoTransfers(), pytest.raises(DataDependentOutputException):
            smoothed._count(torch.zeros(SHAPE), 1000, None)
    assert drawn == [400, 400, 200]


def test_a_network_that_its_factory_put_on_a_gpu_gets_its_images_there():
    """Every normalisation was right of 0 %, and a batch of one image ended in a traceback."""
    arrays, seen = (np.zeros((5, *SHAPE), np.uint8), np.zeros(5, np.int64)), []
    split = ArraySplit(
        name="d", split="test", num_classes=5, image_shape=SHAPE, load=lambda: arrays
    )
    stated = {"none": Normalisation("none"), "own": Normalisation("own", (0.5,) * 3, (0.2,) * 3)}
    config = TrainConfig(dataset="cifar10", objective="gaussian", sigma=0.25, batch_size=1)
    with fake_tensors():
        on_gpu = network().to(CUDA)
        on_gpu.register_forward_hook(lambda module, images, logits: seen.append(logits.device))
        clean_accuracies(on_gpu, stated, split)
        _check_steps_of_one_copy(on_gpu, config, split, 5)
    assert seen == [CUDA] * 3
