"""What SmoothAdv and ADRE-ADV share: an attack before each step, and an epsilon that warms up."""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from rsray.objectives._base import Network, Objective, setting
from rsray.objectives.attacks.steps import ATTACKS, frozen, with_noise


@dataclass(frozen=True, kw_only=True)
class Adversarial(Objective):
    """Train on images that an attack moved within an l2 ball, with the noise the attack saw."""

    epsilon: float = setting(
        "l2 radius of the attack, pixels in [0, 1]; 0: no attack.", 1.0, least=0
    )
    attack: str = setting("pgd, or ddn, which looks for the smallest change that fools.", "pgd")
    num_steps: int = setting("Steps of the attack.", 10, least=1)
    warm_up_epochs: int = setting("Epochs over which epsilon grows linearly.", 10, least=0)

    def __post_init__(self) -> None:
        """Refuse an attack that there is not."""
        super().__post_init__()
        if self.attack not in ATTACKS:
            raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, got {self.attack!r}")

    def at_epoch(self, epoch: int, lr_drops: tuple[int, ...]) -> Self:
        """Return the objective with the epsilon of that epoch."""
        if epoch + 1 >= self.warm_up_epochs:
            return self
        epsilon = self.epsilon * (epoch + 1) / self.warm_up_epochs
        return replace(self, epsilon=epsilon, warm_up_epochs=0)

    def attack_loss(self, logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
        """Return what the attack raises [B]."""
        raise NotImplementedError(f"{type(self).__name__} has no attack_loss")

    def attacked(
        self, network: Network, images_BCHW: Tensor, labels_B: Tensor, noise_BMCHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the adversarial images [B, C, H, W] and the noise that the attack saw."""
        if self.epsilon == 0:
            return images_BCHW, noise_BMCHW
        with frozen(network) as still:
            adversarial_BCHW = ATTACKS[self.attack](
                with_noise(still, noise_BMCHW),
                self.attack_loss,
                images_BCHW,
                labels_B,
                epsilon=self.epsilon,
                num_steps=self.num_steps,
            )
        return adversarial_BCHW, noise_BMCHW
