"""Model weights in safetensors: nothing in the file is executed when it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from rsray.errors import UserError
from rsray.models.checkpoint_file import read_safetensors

# Keys named in an error message
MAX_NAMED = 3


def weights_bytes(model: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the weights and a string-to-string `metadata` as the bytes of a safetensors file."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    return bytes(save(_unshared(state), metadata=dict(metadata or {})))


def load_weights(
    model: nn.Module, path: str | os.PathLike[str] | bytes, where: str | None = None
) -> None:
    """Load weights from a safetensors file, or its bytes, into `model`.

    `where` names bytes in messages. Raises UserError when the file is absent, damaged, or of
    another network; the model is then unchanged.
    """
    where = where or ("in memory" if isinstance(path, bytes) else str(path))
    try:
        content = path if isinstance(path, bytes) else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {where} cannot be read: {error.strerror}") from error
    fit(model, read_safetensors(content, where), where)


def fit(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy `state` into `model`; raises UserError naming the keys or shapes that do not fit."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key} is {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parameters = dict(model.named_parameters())
    strange = [
        f"{key} {why}"
        for key in own
        if key in state and (why := _why_strange(state[key], own[key], key in parameters))
    ]
    named = (("missing", missing), ("unexpected", unexpected), ("shape:", reshaped), ("", strange))
    problems = [f"{what} {_some(found)}".strip() for what, found in named if found]
    if problems:
        # Behind a layer that normalises, where there is one
        name = type(getattr(model, "network", model)).__name__
        raise UserError(f"checkpoint {where} does not fit model {name}: {'; '.join(problems)}")
    model.load_state_dict(dict(state))


def _why_strange(given: Tensor, own: Tensor, is_parameter: bool) -> str | None:
    """Return why a tensor cannot be the network's own, None where it can.

    Copying would turn integers of a quantised network into other weights without a word. Buffers
    may be infinite, as masks are.
    """
    if given.layout != own.layout:
        return f"is {given.layout}, not {own.layout}"
    if own.is_floating_point() and not given.is_floating_point():
        return f"is of {given.dtype}, not {own.dtype}"
    if given.is_floating_point():
        numbers = given.float()
        if numbers.isnan().any() or (is_parameter and numbers.isinf().any()):
            return "holds values that are no finite numbers"
    return None


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory (tied weights), which safetensors refuses to write."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        start = value.untyped_storage().data_ptr()
        out[key] = value.clone() if start in seen else value
        seen.add(start)
    return out


def _some(found: list[str]) -> str:
    """Join the first few of `found` and say how many more there are."""
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return ", ".join(found[:MAX_NAMED]) + more
