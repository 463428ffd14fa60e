"""Gradient attacks on the soft smoothed classifier: PGD, DDN and unprojected ascent (l2 norm).

All look for images that raise a loss of the logits of M noisy copies; the same noise is added at
every step, so the loss is a deterministic function of the image. They return images in [0, 1].
"""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsray.objectives._base import Network
from rsray.objectives.probabilities import log_mean_softmax

# Images [B, C, H, W] -> logits [B, M, K]
Logits = Callable[[Tensor], Tensor]
# Logits [B, M, K], labels [B] -> what to raise [B]
Loss = Callable[[Tensor, Tensor], Tensor]

# The norm grows or shrinks by this factor at each step
DDN_GAMMA = 0.05
# The step size falls from 1 to this along a cosine
DDN_LAST_STEP = 0.01
GRADIENT_SCALE = 256.0
# Keeps 0 / 0 at 0
TINY = 1e-12


@contextmanager
def frozen(network: Network) -> Iterator[Network]:
    """Give the network in eval mode with parameter gradients off, and restore both afterwards.

    A module wrapped for data parallelism is given without its wrapper, whose hooks and buffer
    broadcasts belong to training passes; so is one that another callable holds as its `module`, as
    the trainer's network does. Any other callable is the caller's to prepare.
    """
    if not isinstance(network, nn.Module):
        with _frozen_within(network) as still:
            yield still
        return
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    modes = [(module, module.training) for module in inner.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in inner.parameters()]
    try:
        yield inner.eval().requires_grad_(False)
    finally:
        for module, was_training in modes:
            module.training = was_training
        for parameter, required_grad in flags:
            parameter.requires_grad_(required_grad)


@contextmanager
def _frozen_within(network: Network) -> Iterator[Network]:
    held: Any = network
    module = getattr(network, "module", None)
    if not isinstance(module, nn.Module):
        yield network
        return
    with frozen(module) as still:
        held.module = still
        try:
            yield network
        finally:
            held.module = module


def with_noise(network: Network, noise_BMCHW: Tensor) -> Logits:
    """Return the function from images to the logits of their noisy copies; the noise is kept."""

    def logits_of(images_BCHW: Tensor) -> Tensor:
        noisy_BMCHW = images_BCHW.unsqueeze(1) + noise_BMCHW
        logits_NK = network(noisy_BMCHW.flatten(0, 1))
        return logits_NK.reshape(*noise_BMCHW.shape[:2], -1).float()

    return logits_of


def pgd(
    logits_of: Logits,
    loss_of: Loss,
    images_BCHW: Tensor,
    labels_B: Tensor,
    *,
    epsilon: float,
    num_steps: int,
) -> Tensor:
    """Return adversarial images [B, C, H, W] within epsilon: projected gradient ascent.

    Steps of 2 epsilon / num_steps along the normalised gradient, each followed by projection on
    the ball and clipping to [0, 1] (Salman et al., NeurIPS 2019).
    """
    delta_BCHW = torch.zeros_like(images_BCHW)
    for _ in range(num_steps):
        direction_BCHW, _ = _ascent(logits_of, loss_of, images_BCHW + delta_BCHW, labels_B)
        delta_BCHW = delta_BCHW + direction_BCHW * (2 * epsilon / num_steps)
        delta_BCHW = _clipped(images_BCHW, shrunk(delta_BCHW, epsilon))
    return images_BCHW + delta_BCHW


def ddn(
    logits_of: Logits,
    loss_of: Loss,
    images_BCHW: Tensor,
    labels_B: Tensor,
    *,
    epsilon: float,
    num_steps: int,
) -> Tensor:
    """Return adversarial images [B, C, H, W] within epsilon: decoupled direction and norm.

    The norm starts at epsilon, shrinks by a factor 0.95 after a misclassification and grows by
    1.05 otherwise (Rony et al., CVPR 2019). The smallest change that misclassified is returned; an
    image that never was keeps its last one, where the published code falls back on no change.
    """
    delta_BCHW = best_BCHW = torch.zeros_like(images_BCHW)
    largest_B111 = norm(torch.maximum(images_BCHW, 1 - images_BCHW))
    best_norm_B111, norm_B111 = largest_B111, torch.full_like(largest_B111, epsilon)
    for i in range(num_steps):
        direction_BCHW, fooled_B = _ascent(logits_of, loss_of, images_BCHW + delta_BCHW, labels_B)
        fooled_B111 = fooled_B[:, None, None, None]
        is_best_B111 = fooled_B111 & (norm(delta_BCHW) < best_norm_B111)
        best_norm_B111 = torch.where(is_best_B111, norm(delta_BCHW), best_norm_B111)
        best_BCHW = torch.where(is_best_B111, delta_BCHW, best_BCHW)
        norm_B111 = norm_B111 * torch.where(fooled_B111, 1 - DDN_GAMMA, 1 + DDN_GAMMA)
        norm_B111 = norm_B111.minimum(largest_B111)
        cosine = (1 + math.cos(math.pi * i / num_steps)) / 2
        step_size = DDN_LAST_STEP + (1 - DDN_LAST_STEP) * cosine
        moved_BCHW = delta_BCHW + direction_BCHW * step_size
        delta_BCHW = _clipped(images_BCHW, moved_BCHW * (norm_B111 / norm(moved_BCHW).clamp(TINY)))
    never_B111 = best_norm_B111 == largest_B111
    delta_BCHW = shrunk(torch.where(never_B111, delta_BCHW, best_BCHW), epsilon)
    return images_BCHW + delta_BCHW


def ascend(
    logits_of: Logits,
    loss_of: Loss,
    images_BCHW: Tensor,
    labels_B: Tensor,
    *,
    step_size: float,
    num_steps: int,
) -> Tensor:
    """Return images [B, C, H, W] after normalised-gradient steps, clipped to [0, 1], in no ball."""
    for _ in range(num_steps):
        direction_BCHW, _ = _ascent(logits_of, loss_of, images_BCHW, labels_B)
        images_BCHW = (images_BCHW + direction_BCHW * step_size).clamp(0, 1)
    return images_BCHW


ATTACKS: dict[str, Callable[..., Tensor]] = {"pgd": pgd, "ddn": ddn}


def _ascent(
    logits_of: Logits, loss_of: Loss, images_BCHW: Tensor, labels_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of norm 1 (or 0) [B, C, H, W] and which images are misclassified [B]."""
    with torch.enable_grad():
        leaf_BCHW = images_BCHW.detach().requires_grad_()
        logits_BMK = logits_of(leaf_BCHW)
        loss = loss_of(logits_BMK, labels_B).sum()
        gradient_BCHW = scaled_gradient(loss, leaf_BCHW)
    fooled_B = log_mean_softmax(logits_BMK.detach()).argmax(-1) != labels_B
    return direction(gradient_BCHW), fooled_B


def scaled_gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient times a power of two, which changes no direction.

    Of confident images it would be 0 in float16, which training weights are spared by a scaler.
    """
    gradient: Tensor = torch.autograd.grad(loss * GRADIENT_SCALE, leaf)[0]
    return gradient


def direction(gradient_BCHW: Tensor) -> Tensor:
    """Return each gradient [B, C, H, W] with norm 1; 0 where it is 0, or no number in float16."""
    # The largest entry becomes 1 first: the squares of a confident image's gradient underflow.
    scale_B111 = gradient_BCHW.abs().amax((1, 2, 3), keepdim=True)
    is_usable_B111 = (scale_B111 > 0) & (scale_B111 < torch.inf)
    scaled_BCHW = torch.where(is_usable_B111, gradient_BCHW / scale_B111, 0.0)
    return scaled_BCHW / norm(scaled_BCHW).clamp(TINY)


def norm(delta_BCHW: Tensor) -> Tensor:
    """Return the l2 norm of each image [B, 1, 1, 1], in pixel units."""
    norm_B111: Tensor = torch.linalg.vector_norm(delta_BCHW, dim=(1, 2, 3), keepdim=True)
    return norm_B111


def shrunk(delta_BCHW: Tensor, epsilon: float) -> Tensor:
    """Project each change [B, C, H, W] on the ball of radius epsilon."""
    return delta_BCHW * (epsilon / norm(delta_BCHW).clamp(TINY)).clamp(max=1)


def _clipped(images_BCHW: Tensor, delta_BCHW: Tensor) -> Tensor:
    """Cut each change [B, C, H, W] so that the image stays in [0, 1]."""
    return (images_BCHW + delta_BCHW).clamp(0, 1) - images_BCHW
