"""SmoothMix: mix images with over-confident adversarial ones (Jeong et al., NeurIPS 2021)."""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from rsray.core.gpus import send
from rsray.objectives._base import Network, Objective, Step, Terms, noisy_logits, setting
from rsray.objectives.attacks.steps import ascend, frozen, shrunk, with_noise
from rsray.objectives.probabilities import cross_entropy, log_mean_softmax, mean_softmax_nll


@dataclass(frozen=True, kw_only=True)
class SmoothMix(Objective):
    """Cross entropy plus the divergence from mixed targets at mixtures with adversarial images."""

    search_space = {"trade_off": "log(0.5,20)"}
    smooths_labels = True

    num_draws: int = setting("Noisy copies of each image in a step (m).", 2)
    trade_off: float = setting("Weight of the mixtures (eta).", 5.0, least=0)
    step_size: float = setting("l2 length of a step of the attack, pixels in [0, 1].", 0.5, least=0)
    num_steps: int = setting("Steps of the attack.", 4, least=0)
    warm_up_epochs: int = setting(
        "Epochs over which trade_off and mix_radius grow linearly.", 10, least=0
    )
    detach_target: bool = setting(
        "Hold the mixtures' target fixed; else it is trained, too, as the authors' code does.", True
    )
    mix_step: int = setting(
        "Train on the image after so many steps of the attack (0: on the image itself).", 0, least=0
    )
    mix_radius: float = setting(
        "How far that image may be from its own, l2 in pixels (0: mix_step * step_size).",
        0.0,
        least=0,
    )

    def __post_init__(self) -> None:
        """Refuse to train on an image that the attack does not come to."""
        super().__post_init__()
        if self.mix_step > self.num_steps:
            raise ValueError(
                f"mix_step must be at most num_steps, {self.num_steps}, got {self.mix_step}"
            )

    def at_epoch(self, epoch: int, lr_drops: tuple[int, ...]) -> SmoothMix:
        """Return the objective with the trade_off and the mix_radius of that epoch."""
        if epoch + 1 >= self.warm_up_epochs:
            return self
        share = (epoch + 1) / self.warm_up_epochs
        trade_off, radius = share * self.trade_off, share * self._mix_radius
        return replace(self, trade_off=trade_off, mix_radius=radius, warm_up_epochs=0)

    @property
    def _mix_radius(self) -> float:
        """Return how far the image that is trained on may be from its own."""
        return self.mix_radius or self.mix_step * self.step_size

    def step(
        self,
        network: Network,
        images_BCHW: Tensor,
        labels_B: Tensor,
        noise_BMCHW: Tensor,
        *,
        companion: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        """Attack without a norm ball, then run a pass on the images and one on the mixtures."""
        with frozen(network) as still:
            attack = partial(
                ascend,
                with_noise(still, noise_BMCHW),
                mean_softmax_nll,
                labels_B=labels_B,
                step_size=self.step_size,
            )
            moved_BCHW = attack(images_BCHW, num_steps=self.mix_step)
            adversarial_BCHW = attack(moved_BCHW, num_steps=self.num_steps - self.mix_step)
        # The attack goes on from where it was; only what is trained on is drawn near.
        images_BCHW = images_BCHW + shrunk(moved_BCHW - images_BCHW, self._mix_radius)
        # Of the adversarial image in the mixture
        share_B = uniform(labels_B, generator) / 2
        mixed_BCHW = torch.lerp(images_BCHW, adversarial_BCHW, share_B[:, None, None, None])
        logits_BMK = noisy_logits(network, images_BCHW, noise_BMCHW.clone())
        mixed_BMK = noisy_logits(network, mixed_BCHW, noise_BMCHW)
        return Step(self.mixed_terms(logits_BMK, mixed_BMK, share_B, labels_B), logits_BMK)

    def mixed_terms(
        self, logits_BMK: Tensor, mixed_BMK: Tensor, share_B: Tensor, labels_B: Tensor
    ) -> Terms:
        """Return CE and trade_off * [correct] * mean_j KL(target || mixed copy j), in nats.

        The target is the mean softmax of the image, moved by `share_B` towards the uniform
        distribution. With `detach_target` no gradient flows through it; without, the copies of the
        image are drawn to those of the mixture as well.
        """
        log_mean_BK = log_mean_softmax(logits_BMK)
        # In log space: the gradient of x log x has no value at 0.
        log_uniform_B = share_B.log() - math.log(log_mean_BK.shape[-1])
        log_target_BK = torch.logaddexp(
            log_mean_BK + (-share_B).log1p()[:, None], log_uniform_B[:, None]
        )
        if self.detach_target:
            log_target_BK = log_target_BK.detach()
        divergence_BK = log_target_BK.exp() * (log_target_BK - mixed_BMK.log_softmax(-1).mean(1))
        is_correct_B = log_mean_BK.argmax(-1) == labels_B
        return Terms(
            cross_entropy(logits_BMK, labels_B, self.label_smoothing),
            divergence_BK.sum(-1) * is_correct_B * self.trade_off,
        )


def uniform(labels_B: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a draw from U[0, 1] for each image [B], on the device of the labels.

    One number per image, in their order: the trainer's generator stands at the first image's place
    in the global batch, so an image gets the same number however the batch is split.
    """
    device = labels_B.device if generator is None else generator.device
    drawn_B = torch.rand(labels_B.shape, generator=generator, device=device)
    return send(drawn_B, labels_B.device)
