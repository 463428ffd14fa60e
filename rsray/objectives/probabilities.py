"""Cross entropy and mean probability over noise draws, in log space so that nothing overflows."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

import math

from torch import Tensor

# Where -weight * -log(probability) would be unbounded below
PROBABILITY_FLOOR = 1e-10


def cross_entropy(logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """Return the mean over the draws of -log softmax(logits)[label] [B], in nats."""
    log_p_BMK = logits_BMK.log_softmax(-1)
    labels_BM1 = labels_B[:, None, None].expand(-1, logits_BMK.shape[1], 1)
    return -log_p_BMK.gather(-1, labels_BM1)[..., 0].mean(1)


def log_mean_softmax(logits_BMK: Tensor) -> Tensor:
    """Return log(mean over the draws of softmax(logits)) [B, K]: log z-hat of the papers."""
    return log_mean(logits_BMK.log_softmax(-1))


def log_mean(log_p_BMK: Tensor) -> Tensor:
    """Return log(mean over the draws of exp(log_p)) [B, K]."""
    return log_p_BMK.logsumexp(1) - math.log(log_p_BMK.shape[1])


def of_label(values_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return each image's value of its label [B]."""
    return values_BK.gather(1, labels_B[:, None])[:, 0]
