"""Cross entropy and mean probability over noise draws, in log space so that nothing overflows."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

import math

import torch
from torch import Tensor

# Of ADRE's second term, which would be unbounded below, and of MACER's first, as in its code
PROBABILITY_FLOOR = 1e-10


def cross_entropy(logits_BMK: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean over the draws of the cross entropy against the labels [B], in nats."""
    return label_entropy(logits_BMK.log_softmax(-1), labels_B, smoothing).mean(1)


def label_entropy(log_p: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return -log p of each image's label, of log-probabilities [B, ..., K].

    With label smoothing that share of the target is spread evenly over all classes.
    """
    index = labels_B.view(-1, *[1] * (log_p.ndim - 1)).expand(*log_p.shape[:-1], 1)
    entropy = -log_p.gather(-1, index)[..., 0]
    return torch.lerp(entropy, -log_p.mean(-1), smoothing) if smoothing else entropy


def log_mean_softmax(logits_BMK: Tensor) -> Tensor:
    """Return log(mean over the draws of softmax(logits)) [B, K]: log z-hat of the papers."""
    return log_mean(logits_BMK.log_softmax(-1))


def log_mean(log_p_BMK: Tensor) -> Tensor:
    """Return log(mean over the draws of exp(log_p)) [B, K]."""
    return log_p_BMK.logsumexp(1) - math.log(log_p_BMK.shape[1])


def mean_softmax_nll(logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """Return -log of the label's mean probability [B], in nats: what attacks raise."""
    return -of_label(log_mean_softmax(logits_BMK), labels_B)


def of_label(values_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return each image's value of its label [B]."""
    return values_BK.gather(1, labels_B[:, None])[:, 0]
