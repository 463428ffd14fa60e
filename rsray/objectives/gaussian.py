"""Gaussian data augmentation: cross entropy on noisy copies (Cohen et al., ICML 2019)."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsray.objectives._base import Objective, Terms, setting
from rsray.objectives.macer import mean_probability_nll


@dataclass(frozen=True, kw_only=True)
class Gaussian(Objective):
    """Cross entropy of the mean probability over the draws; the paper takes one draw.

    It is MACER's classification term with that term's floor of 1e-10: an image whose label has
    less than about that probability teaches less than under plain cross entropy.
    """

    smooths_labels = True

    num_draws: int = setting("Noisy copies of each image in a step; the paper takes one.", 1)

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return -log of the mean softmax of the label [B] in nats; there is no robustness term."""
        classification_B = mean_probability_nll(logits_BMK, labels_B, self.label_smoothing)
        return Terms(classification_B, classification_B.new_zeros(classification_B.shape))
