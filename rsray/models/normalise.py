"""What is done to images in [0, 1] before a network sees them: (image - mean) / std per channel.

Noise is added to images in [0, 1], BEFORE this layer, so that sigma and radii are in pixel units.
"""

# Shapes: N images, C H W an image.
from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rsray.errors import UserError
from rsray.models import DENOISERS

# Mean and standard deviation of each channel
Statistics = tuple[Sequence[float], Sequence[float]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What --normalise takes, and what each means.
CHOICES = {
    "dataset": "minus the data set's mean, divided by its standard deviation (NormalizeLayer)",
    "imagenet": "the same with ImageNet's statistics",
    "centre": "minus the data set's mean, not divided (InputCenterLayer of the SmoothAdv authors)",
    "none": "images in [0, 1] as they are",
    "MEAN/STD": "your own, such as 0.5,0.5,0.5/0.25,0.25,0.25",
}
# Statistics that differ by less are the same, rounded otherwise
SAME = 1e-3


class Normalise(nn.Module):
    """(image - mean) / std of each channel; both are buffers [C, 1, 1], saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep the statistics; raises ValueError unless they pair up and every std is positive."""
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean and std must pair up, std above 0: got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the normalised images [N, C, H, W]."""
        return (images_NCHW - self.mean) / self.std


@dataclass(frozen=True)
class Normalisation:
    """The layer before a network: its statistics, or none; `name` is the choice that led to it."""

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def stated(cls, choice: str, statistics: Statistics | None) -> Normalisation:
        """Return the normalisation that a word of CHOICES or "MEAN/STD" states.

        `statistics` are the data set's, if it has any. Raises UserError that lists the choices.
        """
        if choice == "none":
            return cls(choice)
        if choice == "imagenet":
            return cls.of(choice, IMAGENET)
        if choice in ("dataset", "centre"):
            if statistics is None:
                raise UserError(
                    f"normalise is {choice}, but the statistics of this data set are not known: "
                    "give them as MEAN/STD, such as 0.5,0.5,0.5/0.25,0.25,0.25"
                )
            mean, std = statistics
            return cls.of(choice, (mean, std if choice == "dataset" else [1.0] * len(mean)))
        try:
            mean, std = ([float(x) for x in part.split(",")] for part in choice.split("/"))
            if not all(map(math.isfinite, (*mean, *std))):
                raise ValueError
            Normalise(mean, std)
        except ValueError:
            raise UserError(f"normalise is {choice!r}: give one of {explained(CHOICES)}") from None
        return cls.of("given", (mean, std))

    @classmethod
    def of(cls, name: str, statistics: Statistics) -> Normalisation:
        """Return the normalisation with these statistics; UserError for what can be none.

        A mean beyond 1 is of pixels in 0..255, and would be of another function here.
        """
        mean, std = statistics
        found = cls(name, tuple(map(float, mean)), tuple(map(float, std)))
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0 or len(mean) != len(std):
            raise UserError(f"normalisation {name} is {found.text}: it is no mean and deviation")
        if max(map(abs, mean)) > 1:
            raise UserError(
                f"normalisation {name} is {found.text}: such a mean is of pixels in 0..255, and "
                "pixels are in [0, 1] here: divide mean and deviation by 255"
            )
        return found

    @property
    def text(self) -> str:
        """What --normalise takes to state the same once more: MEAN/STD, or none.

        It has the fewest digits by which the layer's float32 are the same to the last bit.
        """
        if not self.mean:
            return "none"
        return "/".join(",".join(map(_float32_text, each)) for each in (self.mean, self.std))

    def __str__(self) -> str:
        """Return what is done, for people."""
        return f"{self.name} ({self.text})" if self.mean else self.name

    def is_as(self, other: Normalisation) -> bool:
        """Tell whether both do the same."""
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=False)
        return len(self.mean) == len(other.mean) and all(abs(a - b) < SAME for a, b in pairs)

    def before(self, network: nn.Module, channels: int) -> nn.Module:
        """Return the network behind this layer; UserError when the images have other channels."""
        if not self.mean:
            return network
        if len(self.mean) != channels:
            raise UserError(
                f"images are to be normalised with statistics of {len(self.mean)} channels, "
                f"but they have {channels}"
            )
        layer = Normalise(self.mean, self.std)
        return nn.Sequential(OrderedDict(normalise=layer, network=network))


def _float32_text(value: float) -> str:
    return str(np.format_float_positional(np.float32(value), trim="-"))


NOTHING = Normalisation("none")
FACTORYS_OWN = Normalisation("as the model's own factory does")


def normalisation_in_training(model: str, statistics: Statistics | None) -> Normalisation:
    """Return what `build` puts before a network of this name.

    That is nothing before a user's factory, nor before a denoiser.
    """
    if ":" in model:
        return FACTORYS_OWN
    if statistics is None or model in DENOISERS:
        return NOTHING
    return Normalisation.of("dataset", statistics)


def explained(choices: Sequence[str] | dict[str, str]) -> str:
    """Return the choices with what each means, in one line."""
    return "; ".join(f"{choice}: {CHOICES[choice]}" for choice in choices)
