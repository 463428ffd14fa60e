"""Import of checkpoints that papers published: PyTorch files, read without running their pickles.

The layouts that occur: Cohen et al.'s `{arch, state_dict, epoch, optimizer}` around
Sequential(NormalizeLayer, network), with DataParallel around either; MACER's `{net, epoch}`; a
plain state dict.
"""

# Shapes: C channels.
from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsray.errors import UserError
from rsray.models.normalise import Normalise
from rsray.models.weights import fit

CONTAINERS = ("state_dict", "net", "model_state_dict", "model")  # where the weights are kept
# What torch.load was seen to raise for files of which some bytes had been changed.
DAMAGE: tuple[type[Exception], ...] = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    TypeError,
)
LAYER_STATISTICS = {"0.means": "mean", "0.mean": "mean", "0.sds": "std", "0.std": "std"}


def load_published(
    path: str | os.PathLike[str] | bytes, model: nn.Module, where: str | None = None
) -> dict[str, Any]:
    """Load the checkpoint into `model` (of `build`); return its metadata, such as arch and epoch.

    Metadata `normalised` is True when the checkpoint kept a normalisation layer before the
    network, False for MACER's layout, whose network takes raw pixels (the model's own layer is
    then set to the identity), and None when the file does not tell. Raises UserError for a file
    that is absent, damaged, holds code, or is of another network; the model is then unchanged.
    """
    where = where or ("in memory" if isinstance(path, bytes) else str(path))
    content = _read(path, where)
    state, metadata = _split(content, where)
    state, has_layer = _strip(state, _network(model).state_dict().keys())
    _refuse_other_statistics(state, model, where)
    normalised = True if has_layer else (False if {"net", "epoch"} <= set(content) else None)
    weights = {key: value for key, value in state.items() if key not in LAYER_STATISTICS}
    fit(_network(model), _with_batch_counts(weights, _network(model)), where)
    if normalised is False:
        _remove_normalisation(model)
    return {**metadata, "normalised": normalised}


def _read(path: str | os.PathLike[str] | bytes, where: str) -> Mapping[str, Any]:
    """Return what the file holds; only tensors and plain containers are let through."""
    try:
        file = io.BytesIO(path if isinstance(path, bytes) else Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"checkpoint {where} cannot be read: {error.strerror}") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {where} is refused: it is damaged, or holds more than tensors and numbers"
        ) from error
    except DAMAGE as error:
        raise UserError(f"checkpoint {where} is damaged or not a PyTorch checkpoint") from error
    if not isinstance(content, Mapping):
        raise UserError(f"checkpoint {where} holds a {type(content).__name__}, not a state dict")
    return content


def _split(content: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict and the plain values kept beside it."""
    inside = next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
    found = content if inside is None else content[inside]
    state = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if not state or len(state) != len(found):
        raise UserError(
            f"checkpoint {where} holds no state dict; its keys are {', '.join(map(str, content))}"
        )
    plain = (str, int, float, bool)
    metadata = {key: value for key, value in content.items() if isinstance(value, plain)}
    return state, metadata


def _strip(state: dict[str, Tensor], wanted: Any) -> tuple[dict[str, Tensor], bool]:
    """Drop the prefixes that all weights share, and tell whether a normalisation layer was there.

    Wrappers (`module.`, `1.` of Sequential(NormalizeLayer, network), `_orig_mod.`) put one in front
    of every key. The statistics of the layer itself keep the names of LAYER_STATISTICS.
    """
    has_layer = False
    while not set(state) - LAYER_STATISTICS.keys() <= set(wanted):
        weights = [key for key in state if key not in LAYER_STATISTICS]
        first = weights[0].partition(".")[0]
        if any(key.count(".") < 2 or key.partition(".")[0] != first for key in weights):
            break
        has_layer |= first == "1"
        state = {key.removeprefix(f"{first}."): value for key, value in state.items()}
    return state, has_layer


def _network(model: nn.Module) -> nn.Module:
    """Return the network behind the normalisation layer of `build`, or the model itself."""
    is_wrapped = isinstance(getattr(model, "normalise", None), Normalise)
    return model.get_submodule("network") if is_wrapped else model


def _refuse_other_statistics(state: Mapping[str, Tensor], model: nn.Module, where: str) -> None:
    """Raise UserError when the checkpoint kept statistics that are not the model's."""
    layer = getattr(model, "normalise", None)
    for key, name in LAYER_STATISTICS.items():
        if key not in state:
            continue
        theirs, ours = (
            state[key].flatten().float(),
            getattr(layer, name, torch.zeros(0)).flatten(),
        )
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours.cpu(), atol=1e-3):
            raise UserError(
                f"checkpoint {where} normalises with {key} = {theirs.tolist()}, "
                f"the model with {ours.tolist()}"
            )


def _with_batch_counts(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Add batch norm's `num_batches_tracked`, which files written before PyTorch 0.4.1 lack."""
    counts = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    return {**counts, **state}


def _remove_normalisation(model: nn.Module) -> None:
    """Turn the model's normalisation layer, if any, into the identity."""
    layer = getattr(model, "normalise", None)
    if isinstance(layer, Normalise):
        layer.mean.zero_()
        layer.std.fill_(1.0)
