"""SODM: the radius through a trained mapping of logits to probabilities (CVPR 2021 submission).

The paper does not give the layers of its mapping network. Here it is a two-layer residual network
over the logits followed by softmax, which starts as plain softmax. It is used in training only.
"""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rsray.objectives._base import Network, Objective, Step, Terms, noisy_logits, setting
from rsray.objectives.attacks.steps import frozen
from rsray.objectives.probabilities import log_mean, of_label


class MappingNetwork(nn.Module):
    """The mapping network: log softmax(u + W2 relu(W1 u)), with W2 = 0 at the start."""

    def __init__(self, num_classes: int, width: int) -> None:
        """Build the network with `width` hidden units."""
        super().__init__()
        self.inner = nn.Linear(num_classes, width)
        self.outer = nn.Linear(width, num_classes)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, logits_BMK: Tensor) -> Tensor:
        """Return log-probabilities [B, M, K]."""
        correction_BMK: Tensor = self.outer(self.inner(logits_BMK).relu())
        return (logits_BMK + correction_BMK).log_softmax(-1)


@dataclass(frozen=True, kw_only=True)
class Sodm(Objective):
    """-log g for misclassified images, -trade_off * Phi^-1(g) for the others up to g = threshold.

    Algorithm 1: g is the mean over the draws of the mapped probability of the label. The mapping
    (the companion) takes a step every `mapping_interval` steps with `mapping_draws` draws, the
    classifier frozen. `trade_off` (the paper's beta) grows tenfold at the first learning-rate drop.
    """

    search_space = {"trade_off": "log(1,100)"}

    num_draws: int = setting("Noisy copies of each image in a step (n).", 16)
    trade_off: float = setting("Weight of the radius (beta).", 6.0, least=0)
    trade_off_growth: float = setting(
        "Factor of trade_off at the first learning-rate drop.", 10.0, least=0
    )
    threshold: float = setting("No radius is asked of an image above this probability (rho).", 0.99)
    mapping_draws: int = setting(
        "Noisy copies in a step of the mapping network (n').", 128, least=1
    )
    mapping_interval: int = setting(
        "Training steps between two of the mapping network (m).", 5, least=1
    )
    mapping_width: int = setting("Hidden units of the mapping network.", 64, least=1)

    def __post_init__(self) -> None:
        """Refuse a threshold that is no probability."""
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")

    @property
    def without_drop(self) -> str:
        """What does without a learning-rate drop."""
        return "trade_off_growth=1" if self.trade_off_growth != 1 else ""

    def at_epoch(self, epoch: int, lr_drops: tuple[int, ...]) -> Sodm:
        """Return the objective with its trade_off grown from the first drop on."""
        if not lr_drops or epoch < min(lr_drops):
            return self
        return replace(self, trade_off=self.trade_off * self.trade_off_growth, trade_off_growth=1.0)

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the two terms [B] in nats with plain softmax, which the mapping starts as."""
        return self.mapped_terms(logits_BMK.log_softmax(-1), labels_B)

    def mapped_terms(self, log_p_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the two terms [B] of step 5 in nats from mapped log-probabilities."""
        log_g_BK = log_mean(log_p_BMK)
        log_g_B = of_label(log_g_BK, labels_B)
        is_correct_B = log_g_BK.argmax(-1) == labels_B
        g_B = log_g_B.exp()
        has_radius_B = is_correct_B & (g_B < self.threshold)
        quantile_B = torch.special.ndtri(torch.where(has_radius_B, g_B, 0.5))
        return Terms(torch.where(is_correct_B, 0.0, -log_g_B), quantile_B * -self.trade_off)

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
        """Run one training pass through the mapping, whose own parameters get no gradient."""
        logits_BMK = noisy_logits(network, images_BCHW, noise_BMCHW)
        if companion is None:
            return Step(self.terms(logits_BMK, labels_B), logits_BMK)
        with frozen(companion) as mapping:
            return Step(self.mapped_terms(mapping(logits_BMK).float(), labels_B), logits_BMK)

    def companion(self, num_classes: int) -> nn.Module:
        """Return the mapping network, which starts as plain softmax."""
        return MappingNetwork(num_classes, self.mapping_width)

    def companion_due(self, step: int) -> bool:
        """Tell whether the mapping takes a step after training step `step` (counted from 0)."""
        return (step + 1) % self.mapping_interval == 0

    def companion_loss(
        self,
        network: Network,
        companion: nn.Module,
        images_BCHW: Tensor,
        labels_B: Tensor,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """Return the mean loss (a scalar) with `mapping_draws` draws; only the mapping learns.

        The network sees the draws in groups of `num_draws`, so memory is that of a training pass.
        """
        sizes = [self.num_draws] * (self.mapping_draws // self.num_draws)
        if self.mapping_draws % self.num_draws:
            sizes.append(self.mapping_draws % self.num_draws)

        def usual(draws: int) -> Tensor:
            images_BMCHW = images_BCHW.unsqueeze(1).expand(-1, draws, -1, -1, -1)
            return (
                torch.randn_like(images_BMCHW, memory_format=torch.contiguous_format) * self.sigma
            )

        draw = noise or usual
        with frozen(network) as still, torch.no_grad():
            parts = [noisy_logits(still, images_BCHW, draw(size)) for size in sizes]
        log_p_BMK = companion(torch.cat(parts, dim=1)).float()
        return self.mapped_terms(log_p_BMK, labels_B).total_B.mean()
