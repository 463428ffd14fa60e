"""A network by name, behind the layer that normalises its images, and a check that it fits."""

# Shapes: K classes.
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rsray.core.independence import AGAIN, allowed_difference, as_images_for
from rsray.errors import UserError
from rsray.family import choose
from rsray.models import DENOISERS, MODELS, PAPERS_NAMES
from rsray.models.factory import first_line, from_factory
from rsray.models.normalise import Statistics, normalisation_in_training


def build(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    statistics: Statistics | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return an untrained model for images of `image_shape` = (C, H, W) in [0, 1].

    A name of DENOISERS gives a network that returns images. A name of MODELS, or a paper's name
    for one, gives Sequential(normalise, network), or the bare
    network without `statistics`. `package.module:factory` calls the user's own factory, with
    `arguments` too, and returns its module as it is: normalisation is the factory's business.
    Raises UserError for any other name.
    """
    if ":" in name:
        return from_factory(name, image_shape, num_classes, arguments or {})
    if arguments:
        raise UserError(
            f"model {name!r} takes no arguments (model-args {', '.join(arguments)}): they are for "
            "package.module:factory"
        )
    known = PAPERS_NAMES.get(name, name)
    if known in DENOISERS:
        return DENOISERS[known](image_shape)
    network = MODELS[choose(known, [*MODELS, "package.module:factory"], "model")](
        image_shape, num_classes
    )
    return normalisation_in_training(name, statistics).before(network, image_shape[0])


def check(model: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Run a noisy image through the model; raises UserError unless it returns logits [1, K].

    The model's training mode is as before afterwards.
    """
    if num_classes < 2:
        raise UserError("the data have one class: a classifier needs two")
    shape = _output_shape(model, image_shape)
    if shape != (1, num_classes):
        hint = ": of several outputs it must name one `logits`" if str(shape).isidentifier() else ""
        wanted = f"logits of shape (1, {num_classes})"
        raise UserError(f"the model must return {wanted}, got {shape}{hint}")


def check_denoiser(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Do the same for a denoiser, which returns an image of the same shape."""
    shape = _output_shape(model, image_shape)
    if shape != (1, *image_shape):
        wanted = (1, *image_shape)
        raise UserError(f"a denoiser must return images of shape {wanted}, got {shape}")


def check_made_alike(
    model: nn.Module, again: nn.Module, name: str, image_shape: tuple[int, int, int]
) -> None:
    """Raise UserError unless a factory's two networks compute the same, with the weights of one.

    Every process makes its own: what a network draws as it is made, or keeps in a plain list, is
    in no file of weights. One that is random itself passes: others say so (check_independence).
    """
    refusal = UserError(
        f"model {name!r} is another network each time that it is made, with the same weights: it "
        "draws numbers, or has layers in a plain list, that its state_dict lacks; keep them in "
        "register_buffer and nn.ModuleList"
    )
    try:
        again.load_state_dict(model.state_dict())
    except RuntimeError:
        raise refusal from None
    first, second, other = (_answer(each, image_shape) for each in (model, model, again))
    allowed = allowed_difference(first, AGAIN)
    is_random = bool((first - second).abs().max() > allowed)
    if not is_random and bool((first - other).abs().max() > allowed):
        raise refusal


def _output_shape(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, ...] | str:
    """Return the shape of what the model makes of a noisy image; of no tensor its type's name."""
    found = _answer(model, image_shape)
    if not isinstance(found, torch.Tensor):
        return type(found).__name__
    is_number = not (found.is_complex() or found.dtype == torch.bool)
    return tuple(found.shape) if is_number else str(found.dtype)


def _answer(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Return what the model makes of a noisy image, always the same one."""
    modes = [(module, module.training) for module in model.modules()]
    noisy = 0.5 + torch.randn(1, *image_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            return model.eval()(as_images_for(model, noisy))
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # not the model's fault
        raise
    except (Exception, SystemExit) as error:  # a user's forward may raise anything at all
        raise UserError(
            f"the model fails on an image of shape {image_shape} with Gaussian noise: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        for module, was_training in modes:
            module.training = was_training
