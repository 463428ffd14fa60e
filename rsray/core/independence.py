"""Whether a network's logits of an image depend on that image alone.

Every certificate takes the noisy copies of an image to be independent draws of one function. That
fails where a layer mixes the images of a batch (batch norm without running statistics) or draws
numbers of its own (dropout left on).
"""

# Shapes: N images of a probe, C H W an image, K classes.
from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsray.core.hardware import forbid_tf32
from rsray.errors import UserError

# Rounding may change this share of how far logits are apart: from one look at a batch to the next,
# with another batch, for which other kernels run, and in types of 16 bits.
AGAIN, OTHER_BATCH, HALF = 1e-4, 1e-3, 3e-2
# And this share of the logits themselves
ROUNDING = 1e-5
# values; of these the probe has fewer images
LARGE_IMAGE = 20_000
# How many times larger a batch is looked at too: some networks treat large ones otherwise.
CROWD = 8
# module, the image's rows in, and out
Trace = list[tuple[str, list[Tensor], list[Tensor]]]


@torch.no_grad()
def check_independence(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Raise UserError if logits depend on the other images of the batch, or on chance.

    `model` is in evaluation mode. One noisy image is evaluated twice in a mixed batch, at another
    place among other images, among many, and alone; what the model itself raises is passed on. A
    network that draws numbers is refused even where these looks agree: it may do so rarely.
    """
    with _float32_as_it_is():
        _check(model, *_probes(model, image_shape))


def _check(model: nn.Module, mixed: Tensor, others: Tensor) -> None:
    logits_NK = _logits(model, mixed)
    is_half = mixed.dtype in (torch.float16, torch.bfloat16)
    allowed = allowed_difference(logits_NK, HALF if is_half else AGAIN)
    for _ in range(2):
        before = _random_states()
        is_same = _same(_logits(model, mixed), logits_NK, allowed)
        if not is_same or _random_states() != before:
            named = _who_draws(model, mixed) or _culprit(model, mixed, mixed, (0, 0))
            raise UserError(
                f"{named} draws numbers of its own in evaluation "
                "mode: looks at one image differ, so no certificate can speak of the network; "
                "take dropout and other noise out of its evaluation"
            )
    allowed = allowed_difference(logits_NK, HALF if is_half else OTHER_BATCH)
    crowd = others.repeat(CROWD, 1, 1, 1)
    for batch, row in ((others, len(others) - 1), (crowd, len(crowd) - 1), (mixed[:1], 0)):
        if not _same(_logits_at(model, batch, row), logits_NK[0], allowed):
            raise UserError(
                f"{_culprit(model, mixed, batch, (0, row))} makes the logits of an image depend on "
                "the other images of its batch: draws are then not independent, and no certificate "
                "can speak of the network; use running statistics, or treat each image alone"
            )


def _logits(model: nn.Module, batch_NCHW: Tensor) -> Tensor:
    """Return logits [N, K]; of a copy, since a network may normalise its input in place."""
    logits_NK: Tensor = logits_of(model(batch_NCHW.clone()))
    if not isinstance(logits_NK, Tensor):
        raise UserError(f"the model returns a {type(logits_NK).__name__}, not logits")
    if len(logits_NK) != len(batch_NCHW):
        shape, number = tuple(logits_NK.shape), len(batch_NCHW)
        raise UserError(
            f"the model returns shape {shape} for {number} images, not one row for each"
        )
    return logits_NK


def _random_states() -> tuple[Any, ...]:
    """Return what the generators that a network can draw from are at."""
    name, keys, *rest = np.random.get_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda._initialized else []
    torchs = [state.numpy().tobytes() for state in (torch.get_rng_state(), *gpus)]
    return random.getstate(), name, np.asarray(keys).tobytes(), *rest, *torchs


def logits_of(output: Any, *, is_training: bool = False) -> Any:
    """Return the logits of an output that holds more, as Hugging Face's and Inception's do.

    A tuple without names is taken apart in training only, where its first is the main output.
    """
    named = output.get("logits") if isinstance(output, Mapping) else None
    if isinstance(logits := getattr(output, "logits", named), Tensor):
        return logits
    is_several = isinstance(output, tuple | list) and len(output) > 0
    return output[0] if is_several and is_training else output


@contextlib.contextmanager
def _float32_as_it_is() -> Iterator[None]:
    """Keep GPUs from rounding float32 to TF32, as much as another function would change logits."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    forbid_tf32()
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def _logits_at(model: nn.Module, batch_NCHW: Tensor, row: int) -> Tensor:
    """Return an image's logits [K]; NaN where the model takes batches only."""
    try:
        logits_K: Tensor = _logits(model, batch_NCHW)[row]
    except (UserError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception:  # such as batch norm's "more than 1 value per channel"
        if len(batch_NCHW) > 1:
            raise
        return torch.full((), math.nan, device=batch_NCHW.device)
    return logits_K


def _probes(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return noisy images [N, C, H, W], and another batch whose last image is their first."""
    number = 3 if math.prod(image_shape) > LARGE_IMAGE else 8
    generator = torch.Generator().manual_seed(0)
    brightness = torch.linspace(0.1, 0.9, number)[:, None, None, None]
    noise = torch.randn((2, number, *image_shape), generator=generator)
    mixed, others = as_images_for(model, brightness + 0.25 * noise)
    others = others.square()
    others[-1] = mixed[0]
    return mixed, others


def first_weight(model: nn.Module) -> Tensor | None:
    """Return the parameter whose device and type images for the model have; None: it has none.

    Weights that are quantised to whole numbers say nothing of images.
    """
    return next((each for each in model.parameters() if each.is_floating_point()), None)


def as_images_for(model: nn.Module, images: Tensor) -> Tensor:
    """Return images on the device, and of the type, that the model's weights have."""
    weight = first_weight(model)
    return images if weight is None else images.to(weight.device, weight.dtype)


def allowed_difference(logits_NK: Tensor, share: float) -> float:
    """Return what rounding may change in logits: a share of how far those of an image are apart.

    What all classes have in common is left out of it: a large offset must not hide differences.
    """
    finite_NK = logits_NK.float().nan_to_num(0.0, 0.0, 0.0)
    apart = (finite_NK - finite_NK.mean(-1, keepdim=True)).abs().max()
    return max(share * float(apart), ROUNDING * float(finite_NK.abs().max()))


def _same(first: Tensor, second: Tensor, allowed: float) -> bool:
    same = torch.isclose(first.float(), second.float(), rtol=0.0, atol=allowed, equal_nan=True)
    return bool(same.all())


def _culprit(model: nn.Module, first: Tensor, second: Tensor, rows: tuple[int, int]) -> str:
    """Name the first module that gives an image other features in the second batch.

    Its input is the same in both batches and its output is not.
    """
    traces = [_trace(model, batch, row) for batch, row in zip((first, second), rows, strict=True)]
    modules = dict(model.named_modules())
    for (name, inputs, outputs), (other, other_inputs, other_outputs) in zip(*traces, strict=False):
        if name == other and _alike(inputs, other_inputs) and not _alike(outputs, other_outputs):
            return _shown(name, modules[name])
    return f"the network ({type(model).__name__})"


def _shown(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"module {name!r} ({kind})" if name else f"the network ({kind}) itself"


def _who_draws(model: nn.Module, batch: Tensor) -> str | None:
    """Name the innermost module that draws from a shared generator; None where none does."""
    found: list[str] = []
    states: dict[str, tuple[Any, ...]] = {}

    def before(name: str, module: nn.Module, inputs: Any) -> None:
        states[name] = _random_states()

    def after(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if states[name] != _random_states():
            found.append(_shown(name, module))

    with _watched(model, before, after):
        model(batch.clone())
    return found[0] if found else None


@contextlib.contextmanager
def _watched(
    model: nn.Module,
    before: Callable[[str, nn.Module, Any], None],
    after: Callable[[str, nn.Module, Any, Any], None],
) -> Iterator[None]:
    """Have these called, with its name, at the beginning and end of each module's pass."""
    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(before, name)))
            hooks.enter_context(module.register_forward_hook(partial(after, name)))
        yield


def _alike(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(
        a.shape == b.shape and _same(a, b, AGAIN * float(a.float().abs().max()))
        for a, b in zip(first, second, strict=False)
    )


def _trace(model: nn.Module, batch: Tensor, row: int) -> Trace:
    """Return what goes into and comes out of each module for one image, as they finish."""
    found: Trace = []
    waiting: dict[str, list[Tensor]] = {}

    def rows(values: Any) -> list[Tensor]:
        values = values if isinstance(values, tuple | list) else (values,)
        tensors = [value for value in values if isinstance(value, Tensor) and value.dim()]
        return [x[row].clone() for x in tensors if len(x) == len(batch) and x.numel()]

    def before(name: str, module: nn.Module, inputs: Any) -> None:
        waiting[name] = rows(inputs)

    def after(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        found.append((name, waiting[name], rows(output)))

    try:
        with _watched(model, before, after):
            model(batch.clone())
    except Exception:  # the module that raised is the first one without an output
        lost = next((name for name in reversed(waiting) if name not in {f[0] for f in found}), "")
        found.append((lost, waiting.get(lost, []), [torch.full((1,), math.nan)]))
    return found
