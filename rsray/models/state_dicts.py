"""Which of the things in a checkpoint file are the weights of the network that is meant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rsray.errors import UserError

# Where the weights are kept, as most codes call it.
CONTAINERS = ("state_dict", "net", "model_state_dict", "model_state", "model", "network", "weights")
# What holds tensors of the weights' shapes and is no network.
NO_NETWORK = re.compile(r"optim|momentum|exp_avg|sched|grad", re.IGNORECASE)
# Dictionaries within dictionaries; keys that a message names.
DEEPEST, MOST_NAMED = 4, 8
HOW_TO_SAVE = "save the weights that are meant alone: torch.save(c[KEY], 'weights.pth')"


def find_state_dict(found: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Return the weights in what a file holds: itself, under a usual key, or the only ones.

    Raises UserError where there are none, or others of the same shapes and of other values, such
    as an average of the weights beside those of the last step.
    """
    held = dict(_tensors_held(found))
    named = {path: value for path, value in held.items() if isinstance(value, dict)}
    usual = [path for path in named if all(key in CONTAINERS for key in path)]
    usual.sort(key=lambda path: [CONTAINERS.index(key) for key in path])
    if not usual and len(named) != 1:
        raise UserError(
            f"checkpoint {where} holds {'several dictionaries' if named else 'no state dict'} "
            f"of weights; its keys are {_some(named or [(str(key),) for key in found])}; "
            f"{HOW_TO_SAVE}"
        )
    chosen, *_ = usual or named
    weights = named[chosen]
    others = [path for path in held if path != chosen and _is_another(held[path], weights)]
    if others:
        raise UserError(
            f"checkpoint {where} holds the weights of more than one such network "
            f"({_some([chosen, *others])}); {HOW_TO_SAVE}"
        )
    return weights


def _tensors_held(
    value: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor] | list[Tensor]]]:
    """Yield every state dict and every list of tensors, with the keys that lead there."""
    if len(path) > DEEPEST or (path and NO_NETWORK.search(path[-1])):
        return
    if isinstance(value, Mapping):
        if value and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
            yield path, dict(value)
            return
        for key, inside in value.items():
            yield from _tensors_held(inside, (*path, str(key)))
    elif isinstance(value, list | tuple) and value and all(isinstance(v, Tensor) for v in value):
        yield path, list(value)


def _is_another(held: dict[str, Tensor] | list[Tensor], weights: dict[str, Tensor]) -> bool:
    """Tell whether tensors are of such a network and not the same: all its matrices are there.

    Of the same names the vectors count too: statistics of batch norm may have been taken anew.
    """
    mine, theirs = _matrices(weights), _matrices(held)
    shapes = Counter(tensor.shape for tensor in mine)
    if not shapes or not shapes <= Counter(tensor.shape for tensor in theirs):
        return False
    if isinstance(held, dict) and held.keys() == weights.keys():
        mine, theirs = _values(weights), _values(held)
    return len(mine) != len(theirs) or not all(map(torch.equal, mine, theirs))


def _values(held: dict[str, Tensor]) -> list[Tensor]:
    """Return the tensors in the order of their names, without batch norm's counts."""
    return [held[key] for key in sorted(held) if not is_count(key)]


def is_count(key: str) -> bool:
    """Tell whether it is batch norm's count, which files written before PyTorch 0.4.1 lack."""
    return key.endswith("num_batches_tracked")


def _matrices(held: dict[str, Tensor] | list[Tensor]) -> list[Tensor]:
    tensors = held.values() if isinstance(held, dict) else held
    return [tensor for tensor in tensors if tensor.dim() > 1]


def _some(paths: Collection[tuple[str, ...]]) -> str:
    names = [".".join(path) or "the file itself" for path in islice(paths, MOST_NAMED)]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
