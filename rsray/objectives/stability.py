"""Stability training: noisy predictions should equal the clean one (Li et al., NeurIPS 2019)."""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsray.objectives._base import Network, Objective, Step, Terms, noisy_logits, setting
from rsray.objectives.probabilities import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Stability(Objective):
    """Cross entropy of the clean image plus the cross entropy of its noisy copies against it."""

    search_space = {"trade_off": "log(0.5,20)"}
    smooths_labels = True

    trade_off: float = setting("Weight of the noisy copies' agreement (lambda).", 2.0, least=0)

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
        """Run a clean and a noisy pass; the gradient flows through both."""
        clean_BK = network(images_BCHW).float()
        logits_BMK = noisy_logits(network, images_BCHW, noise_BMCHW)
        return Step(self.clean_terms(clean_BK, logits_BMK, labels_B), logits_BMK)

    def clean_terms(self, clean_BK: Tensor, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return CE(clean, label) and trade_off * mean_j H(clean, copy j), in nats."""
        shift_B = -(clean_BK.softmax(-1) * logits_BMK.log_softmax(-1).mean(1)).sum(-1)
        return Terms(
            cross_entropy(clean_BK.unsqueeze(1), labels_B, self.label_smoothing),
            shift_B * self.trade_off,
        )
