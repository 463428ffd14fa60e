"""SmoothAdv: adversarial training of the smoothed classifier (Salman et al., NeurIPS 2019)."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rsray.objectives._base import Terms, setting
from rsray.objectives.attacks.objective import Adversarial
from rsray.objectives.probabilities import cross_entropy, mean_softmax_nll


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Adversarial):
    """Cross entropy on noisy copies of images that fool the SOFT smoothed classifier.

    The attack raises -log of the mean probability; the training loss is the mean over the draws of
    the cross entropy, as in the authors' code.
    """

    search_space = {"epsilon": "log(0.1,4)"}
    smooths_labels = True

    num_draws: int = setting("Noisy copies of each image, in the attack and in the step (m).", 4)

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the cross entropy [B] in nats; there is no robustness term."""
        classification_B = cross_entropy(logits_BMK, labels_B, self.label_smoothing)
        return Terms(classification_B, torch.zeros_like(classification_B))

    def attack_loss(self, logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
        """Return -log of the label's mean probability [B], in nats."""
        return mean_softmax_nll(logits_BMK, labels_B)
