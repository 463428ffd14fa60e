"""Checkpoints of other code bases: which weights are the network's, and what stood before it.

The layouts that occur: Cohen et al.'s `{arch, state_dict, epoch, optimizer}` around
Sequential(layer, network), with DataParallel around either; MACER's `{net, epoch}`; Lightning's,
whose network is an attribute of its module; RobustBench's and MadryLab's, which keep the layer's
statistics; a plain state dict.
"""

# Shapes: C channels.
from __future__ import annotations

import argparse
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsray.errors import UserError
from rsray.models import PAPERS_NAMES
from rsray.models.checkpoint_file import read_safetensors, read_torch_file
from rsray.models.normalise import NOTHING, Normalisation
from rsray.models.state_dicts import DEEPEST, find_state_dict, is_count
from rsray.models.weights import fit

MACERS_KEYS = {"net", "epoch", "optimizer", "scheduler"}
# What the statistics of a layer before the network are called.
MEANS, DEVIATIONS = ("mean", "means", "mu", "new_mean"), ("std", "sds", "sigma", "new_std")
# What Lightning, and an average of weights, keep beside the network: no part of what it computes.
BESIDE = re.compile(
    r"(criterion|loss\w*|metrics?|(train|val|valid|test)_\w+|\w*acc(uracy)?)\.|n_averaged$"
)
# Where codes keep the names of their classes, in any case: always numbered, and in order too.
NUMBERED = ("class_to_idx", "idx_to_class", "id2label", "label2id", "idx2label")
CLASSES = (
    "classes",
    "class_names",
    "classnames",
    "class_labels",
    "label_names",
    "categories",
    *NUMBERED,
)
# The name of an output of which no name is known
NAMELESS = "(nameless class {})"
# What Hugging Face's libraries call every output of a network whose classes nobody named
PLACEHOLDER = re.compile(r"LABEL_\d+")
MOST_CLASSES = 2**15


class LayerBefore(NamedTuple):
    """What a file says of the layer before its network."""

    # None: it does not say
    normalisation: Normalisation | None
    # False: the layout suggests it, and the user may know better
    is_certain: bool = True
    # There was a layer whose statistics the file does not keep
    is_missing: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by the names that it gives them, and the values beside them."""

    where: str
    state: Mapping[str, Tensor]
    values: Mapping[str, Any]
    is_macers: bool = False

    @classmethod
    def read(cls, content: bytes, where: str, *, is_safetensors: bool) -> Checkpoint:
        """Return what a file holds; UserError when it is damaged, holds code, or no weights.

        UserError too for the weights of two networks, such as an average beside the last step's.
        """
        found = (read_safetensors if is_safetensors else read_torch_file)(content, where)
        state = find_state_dict(found, where)
        # pytorch-cifar's {net, acc, epoch} is of networks that take normalised images.
        is_macers = {"net", "epoch"} <= set(found) <= MACERS_KEYS
        return cls(where, state, found, is_macers)

    @property
    def architecture(self) -> str | None:
        """The name of the network, if the file has it, in rsray's words where there is one."""
        names = (values.get("arch") for values in _mappings(self.values))
        name = next((name for name in names if isinstance(name, str)), None)
        return None if name is None else PAPERS_NAMES.get(name, name)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes by label, if the file has them."""
        return find_class_names(self.values)

    def load_into(self, network: nn.Module) -> LayerBefore:
        """Load the weights, and return what the file says of the layer before the network.

        Raises UserError for the weights of another network, which is then unchanged.
        """
        own = network.state_dict()
        prefix, *copies = self._prefixes([key for key in own if not is_count(key)])
        inside, beside = {key: value for key, value in own.items() if is_count(key)}, {}
        for key, value in self.state.items():
            if key.startswith(prefix) and key.removeprefix(prefix) in own:
                inside[key.removeprefix(prefix)] = value
            elif not key.startswith(tuple(copies)) and not BESIDE.match(key):
                beside[key] = value
        layer = _statistics(beside, self.where)
        fit(network, {**inside, **beside}, self.where)
        return self._layer_before(layer, prefix)

    def _layer_before(self, layer: Normalisation | None, prefix: str) -> LayerBefore:
        """Return what the statistics in the file, or its layout, say."""
        positions = [int(part) for part in prefix.split(".") if part.isdecimal()]
        if max(positions, default=0) > 1:
            raise UserError(
                f"checkpoint {self.where} keeps its network at {prefix}: more than one layer stood "
                "before it; make the whole of it with a factory, package.module:factory"
            )
        if layer is not None:
            return LayerBefore(layer)
        if 1 in positions:
            return LayerBefore(None, is_missing=True)
        return LayerBefore(NOTHING, is_certain=False) if self.is_macers else LayerBefore(None)

    def _prefixes(self, wanted: list[str]) -> list[str]:
        """Return what stands before every name of the network in this file, the first is to load.

        Wrappers (`module.`, `1.` of Sequential(layer, network), `_orig_mod.`, Lightning's `model.`)
        each put one there. There are several where a file holds the same weights more than once.
        """
        possible = {""}
        for end in (*wanted[:1], *wanted[-1:]):
            possible |= {key.removesuffix(end) for key in self.state if key.endswith(f".{end}")}
        found = {prefix: sum(prefix + key in self.state for key in wanted) for prefix in possible}
        whole = sorted((p for p in sorted(found) if found[p] == len(wanted)), key=len)
        if not whole or not whole[0]:
            return [max(sorted(found), key=lambda prefix: found[prefix])]
        first, *others = whole
        if not all(
            torch.equal(self.state[first + name], self.state[other + name])
            for other in others
            for name in wanted
        ):
            raise UserError(
                f"checkpoint {self.where} holds more than one such network ({', '.join(whole)}): "
                "save the weights of the one that is meant alone"
            )
        return [first, *others]


def _mappings(value: Any, depth: int = 0) -> Iterator[Mapping[Any, Any]]:
    """Yield all dictionaries in what a file holds, and settings that are kept as a Namespace."""
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    if isinstance(value, Mapping) and depth <= DEEPEST:
        yield value
        for inside in value.values():
            yield from _mappings(inside, depth + 1)


def find_class_names(values: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of classes by label that a file of another code base holds, if it does."""
    lower = ({str(k).lower(): v for k, v in each.items()} for each in _mappings(values))
    held = ((key, values[key]) for values in lower for key in CLASSES if key in values)
    found = (_in_order(value, may_have_gaps=key in NUMBERED) for key, value in held)
    return next((names for names in found if names), None)


def _in_order(held: Any, *, may_have_gaps: bool) -> tuple[str, ...] | None:
    """Return names of classes by label, from texts or from a dictionary of names and numbers.

    Numbers from 1, or with gaps, leave outputs that have no name.
    """
    if isinstance(held, Mapping):
        pairs = [(k, name) if isinstance(name, str) else (name, k) for k, name in held.items()]
        by_label = {_label(number): name for number, name in pairs}
        labels = [label for label in by_label if label is not None and 0 <= label < MOST_CLASSES]
        if not len(labels) == len(held) > 1 or not (may_have_gaps or max(labels) < len(held)):
            return None
        held = [by_label.get(label, NAMELESS.format(label)) for label in range(max(labels) + 1)]
    held = getattr(held, "texts", held)
    if not isinstance(held, list | tuple) or not all(isinstance(name, str) for name in held):
        return None
    is_known = len(set(held)) == len(held) > 1 and not all(map(PLACEHOLDER.fullmatch, held))
    return tuple(map(str, held)) if is_known else None


def _label(number: Any) -> int | None:
    """Return a whole number, of torch and NumPy and as text too; None for what is none."""
    if isinstance(number, str):
        return int(number) if number.isdecimal() else None
    try:
        return operator.index(number)
    except TypeError:
        return None


def _statistics(beside: dict[str, Tensor], where: str) -> Normalisation | None:
    """Take the statistics of a layer out of the tensors beside the network, if they are there."""
    found: list[Normalisation] = []
    for key in list(beside):
        parent, dot, name = key.rpartition(".")
        if name not in MEANS:
            continue
        mean = beside.pop(key).flatten().float()
        std = torch.ones_like(mean)
        for other in DEVIATIONS:
            if f"{parent}{dot}{other}" in beside:
                std = beside.pop(f"{parent}{dot}{other}").flatten().float()
        found.append(Normalisation.of("as the file says", (mean.tolist(), std.tolist())))
    if any(not each.is_as(found[0]) for each in found[1:]):
        several = ", ".join(each.text for each in found)
        raise UserError(f"checkpoint {where} holds the statistics of several layers: {several}")
    return found[0] if found else None
