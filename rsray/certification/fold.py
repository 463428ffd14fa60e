"""Rewrites a trained network into one that computes the same function faster."""

# Shapes: N images, C H W an image, K classes.
from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsray.models import Normalise

log = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of logits, relative: folding reorders float32 arithmetic and no more


@dataclass(frozen=True)
class Folded:
    """A network without batch norm, and the normalisation to be applied to its input."""

    network: nn.Module
    mean_C: Tensor | None  # None: the input is not normalised
    std_C: Tensor | None
    batch_norm_folded: bool


def fold(model: nn.Module, image_shape: tuple[int, int, int]) -> Folded:
    """Return an evaluation-mode copy with batch norm folded into convolutions, on the same device.

    A leading Normalise layer is taken off and its statistics returned: the sampler applies them
    while it adds the noise. A network that cannot be traced is returned as it is.
    """
    network, mean_C, std_C = _peel(copy.deepcopy(model).eval())
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return Folded(network, mean_C, std_C, batch_norm_folded=False)
    from torch.fx.experimental.optimization import fuse  # takes a second to import

    try:
        folded = fuse(network)
    except Exception as problem:  # a user's forward may raise anything at all when traced
        log.info("batch norm is not folded: the network cannot be traced (%s)", problem)
        return Folded(network, mean_C, std_C, batch_norm_folded=False)
    is_same = _agrees(network, folded, image_shape)
    return Folded(folded if is_same else network, mean_C, std_C, batch_norm_folded=is_same)


def with_float32_head(network: nn.Module) -> nn.Module:
    """Return the network in bfloat16 with its last linear layer in float32.

    bfloat16 logits have 8 bits: two classes would often tie and the lower one win. The layer costs
    next to nothing.
    """
    network = network.to(torch.bfloat16)
    linears = [
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)
    ]
    if linears:
        name, last = linears[-1]
        parent_name, _, own_name = name.rpartition(".")
        head = _Float32Linear(last)
        if not name:
            return head
        setattr(network.get_submodule(parent_name), own_name, head)
    return network


class _Float32Linear(nn.Module):
    """A linear layer that computes in float32 whatever its input's type."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.float()

    def forward(self, features_NF: Tensor) -> Tensor:
        """Return float32 outputs [N, K]."""
        out: Tensor = self.linear(features_NF.float())
        return out


def _peel(model: nn.Module) -> tuple[nn.Module, Tensor | None, Tensor | None]:
    is_wrapped = isinstance(model, nn.Sequential) and len(model) > 1
    if not is_wrapped or not isinstance(model[0], Normalise):  # type: ignore[index]
        return model, None, None
    layer = model[0]  # type: ignore[index]
    rest = model[1] if len(model) == 2 else model[1:]  # type: ignore[arg-type, index]
    return rest, layer.mean.flatten().float(), layer.std.flatten().float()


@torch.no_grad()
def _agrees(network: nn.Module, folded: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    parameter = next(network.parameters())
    probe = torch.rand((2, *image_shape), generator=torch.Generator().manual_seed(0))
    probe = probe.to(parameter.device, parameter.dtype)
    want, got = network(probe), folded(probe)
    return bool((want - got).abs().max() <= TOLERANCE * (1 + want.abs().max()))
