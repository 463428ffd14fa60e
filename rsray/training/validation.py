"""Projected ACR on held-out training images: an estimate to rank models, not a certificate."""

# Shapes: G images in a group, m draws per image, K classes, C H W an image.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsray.core.decide import projected_radius
from rsray.core.hardware import HALF_TYPES
from rsray.core.radius import average_certified_radius
from rsray.training.batches.randomness import seeded_generator

# So many images share a noise stream.
IMAGES_PER_NOISE_STREAM = 8
# The noise draws m of each image.
DRAWS_PER_IMAGE = 256
# Of the images of a pass on a CPU, where short memory kills the process: 2,730 of CIFAR, 55 of
# ImageNet.
CPU_VALUES = 2**23
PROJECTED_N, PROJECTED_ALPHA = 100_000, 0.001


@dataclass(frozen=True)
class Projection:
    """What m draws per image suggest about the smoothed classifier on N images."""

    # The average of the radii that n = 100,000 draws would certify, in pixels.
    acr: float
    # Which images' most frequent class is the label [N].
    correct_N: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """The fraction of images whose most frequent class is the label."""
        return sum(self.correct_N) / len(self.correct_N)


@torch.inference_mode()
def project_acr(
    model: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    *,
    sigma: float,
    precision: str,
    seed: int,
    num_draws: int = DRAWS_PER_IMAGE,
) -> Projection:
    """Return the projected ACR and accuracy of uint8 images on the model's device.

    The noise depends on the seed and an image's position only, so models are compared on the
    same draws. The model's training mode is as before afterwards.
    """
    was_training = model.training
    model.eval()
    classify = _Classifier(model)
    # Small tensors, kept for each group, would keep the heap between them from being used again.
    class_N = torch.zeros_like(labels_N, dtype=torch.int64)
    share_N = torch.zeros(len(labels_N), device=labels_N.device)
    for at in range(0, len(images_NCHW), IMAGES_PER_NOISE_STREAM):
        group = slice(at, at + IMAGES_PER_NOISE_STREAM)
        classes_Gm = _classes(classify, images_NCHW[group], sigma, precision, (seed, at), num_draws)
        class_N[group] = classes_Gm.mode(dim=1).values
        share_N[group] = (classes_Gm == class_N[group, None]).float().mean(1)
    model.train(was_training)
    p_hat = share_N.double().cpu().numpy()
    correct = (class_N == labels_N).cpu().numpy()
    radius = projected_radius(p_hat, sigma=sigma, n=PROJECTED_N, alpha=PROJECTED_ALPHA)
    return Projection(average_certified_radius(radius, correct), tuple(correct.tolist()))


@torch.inference_mode()
def count_right(
    model: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    *,
    sigma: float,
    precision: str,
    seed: int,
    num_draws: int,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Return on how many noisy copies of each image [N] the network names its label (int64).

    `on_images` is told of how many images are done, of how many.
    """
    was_training = model.training
    model.eval()
    classify, size = _Classifier(model), IMAGES_PER_NOISE_STREAM
    right_N = torch.zeros_like(labels_N, dtype=torch.int64)
    for group, at in enumerate(range(0, len(images_NCHW), size)):
        images, labels_G = images_NCHW[at : at + size], labels_N[at : at + size]
        classes_Gm = _classes(classify, images, sigma, precision, (seed, group), num_draws)
        right_N[at : at + size] = (classes_Gm == labels_G[:, None]).sum(1)
        on_images(at + len(images), len(images_NCHW))
    model.train(was_training)
    return right_N


def _classes(
    classify: _Classifier,
    images_GCHW: Tensor,
    sigma: float,
    precision: str,
    key: tuple[int, int],
    num_draws: int,
) -> Tensor:
    """Return the classes [G, m] of noisy copies of uint8 images."""
    device = images_GCHW.device
    group, channels, height, width = images_GCHW.shape
    noise = torch.empty((group * num_draws, height, width, channels), device=device)
    noise.normal_(0.0, sigma, generator=seeded_generator(device, key[0], "validation", key[1]))
    noisy = noise.permute(0, 3, 1, 2).unflatten(0, (group, num_draws))
    noisy = noisy.add_(images_GCHW[:, None].float().div(255)).flatten(0, 1)
    half = HALF_TYPES.get(precision)
    with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
        return classify(noisy).view(group, num_draws)


class _Classifier:
    """The network's classes [N] of images, in as many passes as the device has memory for."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.most = model, 2**31

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        if images_NCHW.device.type == "cpu":
            self.most = min(self.most, max(1, CPU_VALUES // images_NCHW[0].numel()))
        while True:
            at_once = min(self.most, len(images_NCHW))
            try:
                return torch.cat([self.model(p).argmax(1) for p in images_NCHW.split(at_once)])
            except torch.OutOfMemoryError:
                if at_once == 1:
                    raise
                self.most = (at_once + 1) // 2
            # After the except: what raised still held the memory there.
            torch.cuda.empty_cache()
