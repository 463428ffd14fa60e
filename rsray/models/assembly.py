"""A network by name, behind the layer that normalises its images, and a check that it fits."""

# Shapes: K classes.
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from rsray.errors import UserError
from rsray.family import choose
from rsray.models import MODELS
from rsray.models.factory import from_factory
from rsray.models.normalise import Normalise

# Mean and standard deviation of each channel.
Statistics = tuple[Sequence[float], Sequence[float]]


def build(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    statistics: Statistics | None = None,
) -> nn.Module:
    """Return an untrained model for images of `image_shape` = (C, H, W) in [0, 1].

    A name of MODELS gives Sequential(normalise, network), or the bare network without `statistics`.
    `package.module:factory` calls the user's own factory and returns its module as it is:
    normalisation is the factory's business. Raises UserError for any other name.
    """
    if ":" in name:
        return from_factory(name, image_shape, num_classes)
    network = MODELS[choose(name, [*MODELS, "package.module:factory"], "model")](
        image_shape, num_classes
    )
    if statistics is None:
        return network
    mean, std = statistics
    if len(mean) != image_shape[0]:
        raise UserError(
            f"images are to be normalised with statistics of {len(mean)} channels, "
            f"but they have {image_shape[0]}"
        )
    return nn.Sequential(OrderedDict(normalise=Normalise(mean, std), network=network))


def check(model: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Run one blank image through the model; raises UserError unless it returns logits [1, K].

    The model's training mode is as before afterwards.
    """
    parameter = next(model.parameters(), torch.zeros(0))
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            blank = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
            logits = model.eval()(blank)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"the model fails on an image of shape {image_shape}: {_line(error)}"
        ) from error
    finally:
        for module, was_training in modes:
            module.training = was_training
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (1, num_classes):
        raise UserError(f"the model must return logits of shape (1, {num_classes}), got {shape}")


def _line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
