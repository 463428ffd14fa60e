"""MACER: widen the soft certified radius (Zhai et al., ICLR 2020)."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rsray.objectives._base import Objective, Terms, setting
from rsray.objectives.probabilities import PROBABILITY_FLOOR, label_entropy, log_mean_softmax

# Below this a probability has underflowed: its gap is beyond any hinge
PROBABILITY_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Macer(Objective):
    """Cross entropy of the mean probability plus a hinge on correctly classified images' radius.

    The inverse temperature acts on the robustness term only, and the hinge only on images that
    the mean tempered softmax classifies correctly with a finite gap of at most `hinge`.
    """

    search_space = {
        "trade_off": "log(0.5,32)",
        "hinge": "uniform(2,16)",
        "inverse_temperature": "log(2,64)",
    }
    smooths_labels = True

    num_draws: int = setting("Noisy copies of each image in a step (k).", 16)
    trade_off: float = setting(
        "Weight of the radius beside the cross entropy (lambda).", 12.0, least=0
    )
    hinge: float = setting(
        "Leave an image alone once Phi^-1(p1) - Phi^-1(p2) exceeds this.", 8.0, above=0
    )
    inverse_temperature: float = setting(
        "Factor of the logits in the radius (beta).", 16.0, above=0
    )
    deferred: bool = setting(
        "Keep trade_off at 0 until the first learning-rate drop (the paper's sigma = 1.00).", False
    )

    @property
    def without_drop(self) -> str:
        """What does without a learning-rate drop."""
        return "deferred=false" if self.deferred and self.trade_off else ""

    def at_epoch(self, epoch: int, lr_drops: tuple[int, ...]) -> Macer:
        """Return it with trade_off 0 while it is deferred: always, where no drop is left."""
        waiting = self.deferred and (not lr_drops or epoch < min(lr_drops))
        return replace(self, trade_off=0.0) if waiting else self

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the two terms [B] of paper equation (17), in nats."""
        gap_B, is_correct_B = radius_gap(logits_BMK * self.inverse_temperature, labels_B)
        in_hinge_B = is_correct_B & (gap_B <= self.hinge)
        robustness_B = torch.where(in_hinge_B, self.hinge - gap_B, 0.0)
        return Terms(
            mean_probability_nll(logits_BMK, labels_B, self.label_smoothing),
            robustness_B * (self.trade_off * self.sigma / 2),
        )


def mean_probability_nll(logits_BMK: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return -log(mean over draws of softmax(logits)[label] + floor) [B], in nats."""
    log_p_BK = log_mean_softmax(logits_BMK)
    # Made on the device
    floor_BK = torch.full_like(log_p_BK, math.log(PROBABILITY_FLOOR))
    return label_entropy(torch.logaddexp(log_p_BK, floor_BK), labels_B, smoothing)


def radius_gap(logits_BMK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return Phi^-1(p1) - Phi^-1(p2) of the mean softmax [B], and where it counts [B] (bool).

    It counts where the label is the top class and no probability has underflowed. Elsewhere the
    gap is finite and its gradient zero. Phi^-1(p1) is taken as -Phi^-1(1 - p1) with 1 - p1 summed
    over the other classes, so float32 resolves gaps that 1 - p1 rounded to 0 would make infinite.
    """
    p_BK = logits_BMK.softmax(-1).mean(1)
    top_B1 = p_BK.argmax(-1, keepdim=True)
    others_BK = p_BK.scatter(1, top_B1, 0.0)
    # 1 - p1, p2
    tails_B2 = torch.stack((others_BK.sum(1), others_BK.amax(1)), dim=1)
    counts_B = (top_B1[:, 0] == labels_B) & (tails_B2[:, 1] > PROBABILITY_TINY)
    quantiles_B2 = torch.special.ndtri(torch.where(counts_B[:, None], tails_B2, 0.5))
    return -quantiles_B2.sum(1), counts_B
