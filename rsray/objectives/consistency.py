"""Consistency regularisation: noisy copies should agree (Jeong & Shin, NeurIPS 2020)."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsray.objectives._base import Objective, Terms, setting
from rsray.objectives.probabilities import cross_entropy, log_mean


@dataclass(frozen=True, kw_only=True)
class Consistency(Objective):
    """Mean cross entropy, divergence of the copies from their mean, and the mean's entropy."""

    search_space = {"trade_off": "log(1,40)", "entropy_weight": "log(0.05,2)"}
    smooths_labels = True

    num_draws: int = setting("Noisy copies of each image in a step (m), at least 2.", 2, least=2)
    trade_off: float = setting(
        "Weight of the copies' agreement with their mean (lambda).", 10.0, least=0
    )
    entropy_weight: float = setting("Weight of the mean prediction's entropy (eta).", 0.5, least=0)

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return CE, and trade_off * mean_j KL(mean || copy j) + entropy_weight * H(mean) [B]."""
        log_p_BMK = logits_BMK.log_softmax(-1)
        log_mean_BK = log_mean(log_p_BMK)
        mean_BK = log_mean_BK.exp()
        divergence_B = (mean_BK * (log_mean_BK - log_p_BMK.mean(1))).sum(-1)
        entropy_B = -(mean_BK * log_mean_BK).sum(-1)
        return Terms(
            cross_entropy(logits_BMK, labels_B, self.label_smoothing),
            self.trade_off * divergence_B + self.entropy_weight * entropy_B,
        )
