"""ADRE: push down the best wrong class of the smoothed classifier (Feng et al., 2020)."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rsray.objectives._base import Objective, Terms, setting
from rsray.objectives.attacks.objective import Adversarial
from rsray.objectives.probabilities import (
    PROBABILITY_FLOOR,
    cross_entropy,
    log_mean_softmax,
    mean_softmax_nll,
)


@dataclass(frozen=True, kw_only=True)
class Adre(Objective):
    """Mean cross entropy less trade_off times the cross entropy of the best wrong class.

    Algorithm 1 with equations (7) and (8). The paper's Table 1 takes the cross entropy from one
    draw only, which is `classification_draws=1`.
    """

    search_space = {"trade_off": "log(0.02,0.5)"}
    smooths_labels = True

    num_draws: int = setting("Noisy copies of each image in a step (k).", 8)
    trade_off: float = setting("Weight of the best wrong class (lambda).", 0.1, least=0)
    classification_draws: int | None = setting(
        "Draws in the cross entropy (None: all; the paper's table 1: 1).", None, least=1
    )

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the two terms [B] of the regularised risk, in nats."""
        drawn_BMK = logits_BMK[:, : self.classification_draws]
        return Terms(
            cross_entropy(drawn_BMK, labels_B, self.label_smoothing),
            regulariser(logits_BMK, labels_B) * self.trade_off,
        )


@dataclass(frozen=True, kw_only=True)
class AdreAdv(Adre, Adversarial):
    """ADRE on adversarial images that raise the regularised loss: equations (12) and (13).

    The paper attacks with full epsilon from the first epoch on, so there is no warm-up by default.
    """

    num_steps: int = setting("Steps of the attack.", 2, least=1)
    warm_up_epochs: int = setting("Epochs over which epsilon grows linearly.", 0, least=0)
    trade_off: float = setting(
        "Weight of the best wrong class, in attack and loss (lambda).", 0.1, least=0
    )

    def attack_loss(self, logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
        """Return equation (12) [B]: -log G(label) + trade_off * log G(best wrong class)."""
        penalty_B = regulariser(logits_BMK, labels_B) * self.trade_off
        return mean_softmax_nll(logits_BMK, labels_B) + penalty_B


def regulariser(logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """Return log of the best wrong class's mean probability [B] in nats, at least log(1e-10)."""
    log_p_BK = log_mean_softmax(logits_BMK)
    wrong_BK = log_p_BK.scatter(1, labels_B[:, None], -torch.inf)
    return wrong_BK.amax(-1).clamp(min=math.log(PROBABILITY_FLOOR))
