"""The network as the engine evaluates it against the original, on a network that was trained."""

import numpy as np
import pytest
import torch
from drawn_noise import block

from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.core.noise import Stream
from rsray.data import open_split
from rsray.presets import train_config
from rsray.training.loop import Training

SIGMA, DRAWS = 0.25, 400


@pytest.fixture(scope="module", params=["lenet", pytest.param("resnet20", marks=pytest.mark.slow)])
def trained(request):
    """A network that tells most noisy digits apart, with or without batch norm."""
    settings = {"dataset": "digits", "objective": "gaussian", "sigma": SIGMA, "lr": 0.05}
    settings |= {"lenet": {"epochs": 6}, "resnet20": {"epochs": 3}}[request.param]
    config = train_config({**settings, "model": request.param, "precision": "fp32"})
    training = Training(config, None, torch.device("cpu"))
    training.run_epochs()
    return training.model.eval()


@torch.no_grad()
@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.9999), ("bf16", 0.995)])
def test_top_1_and_counts_are_the_originals(trained, precision, share):
    """On the same noise: hardly a draw changes class, and counts stay within Monte Carlo error."""
    split = open_split("digits", "test")
    evaluation = Evaluation("cpu", precision, "channels_last", 96)
    shape, classes = split.image_shape, split.num_classes
    engine = Sampler(
        trained, evaluation, image_shape=shape, num_classes=classes, sigma=SIGMA, seed=0
    )
    moved, right = 0, 0
    for index in range(0, 450, 30):
        image = split.images([index])[0]
        got = engine.counts(image, index, "estimation", [(0, DRAWS)])[0]
        noise = block("grid", Stream(0, index, "estimation", 0), DRAWS, shape, SIGMA)
        top = trained(torch.from_numpy(image).float() / 255 + noise).argmax(1)
        want = np.bincount(top.numpy(), minlength=classes)
        moved += int(np.abs(got - want).sum()) // 2
        right += int(want[split.labels[index]])
        spread = np.sqrt(np.maximum(want * (DRAWS - want) / DRAWS, 1.0))
        assert (np.abs(got - want) <= 3 * spread).all()
    assert moved <= (1 - share) * 15 * DRAWS
    assert right > 0.6 * 15 * DRAWS, "a network that has learned something"
