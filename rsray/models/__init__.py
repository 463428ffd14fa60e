"""The networks rsray trains and certifies. All take images in [0, 1] and return logits.

Importing this package loads no torch: the names of the networks can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rsray.family import Family, lazy_names

if TYPE_CHECKING:
    from torch import nn

    from rsray.models.assembly import Statistics, build, check
    from rsray.models.normalise import Normalise
    from rsray.models.published import load_published
    from rsray.models.weights import load_weights, save_weights, weights_bytes

# A member is called with the shape (C, H, W) of an image and the number of classes.
MODELS: Family[Callable[[tuple[int, int, int], int], nn.Module]] = Family(
    "model",
    {
        "lenet": "rsray.models.lenet:LeNet",
        "resnet20": "rsray.models.resnet_cifar:resnet20",
        "resnet110": "rsray.models.resnet_cifar:resnet110",
        "resnet50": "rsray.models.resnet_imagenet:resnet50",
    },
)

__all__ = [
    "MODELS",
    "Normalise",
    "Statistics",
    "build",
    "check",
    "load_published",
    "load_weights",
    "save_weights",
    "weights_bytes",
]

__getattr__ = lazy_names(
    {
        "Normalise": "rsray.models.normalise",
        "Statistics": "rsray.models.assembly",
        "build": "rsray.models.assembly",
        "check": "rsray.models.assembly",
        "load_published": "rsray.models.published",
        "load_weights": "rsray.models.weights",
        "save_weights": "rsray.models.weights",
        "weights_bytes": "rsray.models.weights",
    }
)
