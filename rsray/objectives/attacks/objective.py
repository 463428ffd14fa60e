"""What SmoothAdv and ADRE-ADV share: an attack before each step, and an epsilon that warms up."""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from rsray.objectives._base import Network, Objective, Step, noisy_logits, setting
from rsray.objectives.attacks.steps import ATTACKS, frozen, with_noise


@dataclass(frozen=True, kw_only=True)
class Adversarial(Objective):
    """Train on images that an attack moved within an l2 ball, with the noise the attack saw."""

    epsilon: float = setting("l2 radius of the attack, pixels in [0, 1]; 0: no attack.", 1.0)
    attack: str = setting("pgd, or ddn, which looks for the smallest change that fools.", "pgd")
    num_steps: int = setting("Steps of the attack.", 10)
    warm_up_epochs: int = setting("Epochs over which epsilon grows linearly.", 10)

    def __post_init__(self) -> None:
        """Refuse settings outside the method's domain."""
        super().__post_init__()
        self.refuse_below(0, "epsilon")
        if self.attack not in ATTACKS:
            raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, got {self.attack!r}")
        self.refuse_below(1, "num_steps")
        self.refuse_below(0, "warm_up_epochs")

    def at_epoch(self, epoch: int, lr_drops: tuple[int, ...]) -> Self:
        """Return the objective with the epsilon of that epoch."""
        if epoch + 1 >= self.warm_up_epochs:
            return self
        epsilon = self.epsilon * (epoch + 1) / self.warm_up_epochs
        return replace(self, epsilon=epsilon, warm_up_epochs=0)

    def attack_loss(self, logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
        """Return what the attack raises [B]."""
        raise NotImplementedError(f"{type(self).__name__} has no attack_loss")

    def perturb(
        self, network: Network, images_BCHW: Tensor, labels_B: Tensor, noise_BMCHW: Tensor
    ) -> Tensor:
        """Return the adversarial images [B, C, H, W]; the noise is kept."""
        if self.epsilon == 0:
            return images_BCHW
        with frozen(network) as still:
            return ATTACKS[self.attack](
                with_noise(still, noise_BMCHW),
                self.attack_loss,
                images_BCHW,
                labels_B,
                epsilon=self.epsilon,
                num_steps=self.num_steps,
            )

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
        """Attack, then run the training pass on the adversarial images with the same noise."""
        adversarial_BCHW = self.perturb(network, images_BCHW, labels_B, noise_BMCHW)
        logits_BMK = noisy_logits(network, adversarial_BCHW, noise_BMCHW)
        return Step(self.terms(logits_BMK, labels_B), logits_BMK)
