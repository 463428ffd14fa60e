"""Runs that are cut: the methods whose state is looked at, and how it is compared."""

import torch
from torch import nn


class PowerCutError(Exception):
    pass


class Moody(nn.Module):
    """Dropout and batch norm: state and random numbers that do not belong to the trainer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(24, 10),
        )  # fmt: skip

    def forward(self, images):
        return self.net(images)


# The method is what a name begins with.
METHODS = {
    "gaussian": {},
    "gaussian, adam and cosine": {
        "optimizer": "adam", "lr_schedule": "cosine", "lr_warm_up": 1, "label_smoothing": 0.1,
    },
    "macer": {"num_draws": 2, "deferred": True, "trade_off": 4.0},
    "sodm, adam": {"optimizer": "adam", "num_draws": 2, "mapping_draws": 4, "mapping_interval": 1},
    "sodm": {"num_draws": 2, "mapping_draws": 4, "mapping_interval": 1},
    "smoothmix": {"num_draws": 2, "num_steps": 2},
    "stability": {},
}  # fmt: skip


def same(left, right):
    return set(left) == set(right) and all(torch.equal(left[key], right[key]) for key in left)
