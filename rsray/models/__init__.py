"""The networks rsray trains and certifies. All take images in [0, 1] and return logits.

Importing this package loads no torch: the names of the networks can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rsray.family import Family, lazy_names

if TYPE_CHECKING:
    from torch import nn

    from rsray.models.assembly import build, check, check_denoiser, check_made_alike
    from rsray.models.normalise import Normalisation, Normalise, Statistics
    from rsray.models.published import Checkpoint
    from rsray.models.weights import load_weights, weights_bytes

# A member is called with the shape (C, H, W) of an image and the number of classes.
MODELS: Family[Callable[[tuple[int, int, int], int], nn.Module]] = Family(
    "model",
    {
        "lenet": "rsray.models.lenet:LeNet",
        "lenet9": "rsray.models.lenet:lenet9",
        "resnet8": "rsray.models.resnet:resnet8",
        "resnet20": "rsray.models.resnet:resnet20",
        "resnet110": "rsray.models.resnet:resnet110",
        "resnet50": "rsray.models.resnet:resnet50",
    },
)

# A member is called with the shape (C, H, W) of an image, and returns images of that shape.
DENOISERS: Family[Callable[[tuple[int, int, int]], nn.Module]] = Family(
    "denoiser",
    {"dncnn6": "rsray.models.dncnn:dncnn6", "dncnn17": "rsray.models.dncnn:dncnn17"},
)

# What the papers' files call the networks.
PAPERS_NAMES = {"cifar_resnet20": "resnet20", "cifar_resnet110": "resnet110"}

__all__ = [
    "DENOISERS",
    "MODELS",
    "PAPERS_NAMES",
    "Checkpoint",
    "Normalisation",
    "Normalise",
    "Statistics",
    "build",
    "check",
    "check_denoiser",
    "check_made_alike",
    "load_weights",
    "weights_bytes",
]

__getattr__ = lazy_names(
    {
        **dict.fromkeys(("Normalisation", "Normalise", "Statistics"), "rsray.models.normalise"),
        **dict.fromkeys(
            ("build", "check", "check_denoiser", "check_made_alike"), "rsray.models.assembly"
        ),
        **dict.fromkeys(("load_weights", "weights_bytes"), "rsray.models.weights"),
        "Checkpoint": "rsray.models.published",
    }
)
