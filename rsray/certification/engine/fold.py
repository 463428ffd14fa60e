"""Rewrites a trained network into one that computes the same function faster."""

# Shapes: N images, C H W an image, K classes.
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from rsray.core.independence import allowed_difference, as_images_for, logits_of
from rsray.models import Normalise
from rsray.models.heads import heads_of
from rsray.storage import one_line

# Folding reorders float32 arithmetic: this share of how far logits are apart may change.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Folded:
    """A network, without batch norm where it can be, and the normalisation of its input."""

    network: nn.Module
    # None: the input is not normalised
    mean_C: Tensor | None
    std_C: Tensor | None
    # None: there is no batch norm, or it is folded
    why_not_folded: str | None = None


def fold(model: nn.Module, image_shape: tuple[int, int, int]) -> Folded:
    """Return an evaluation-mode copy with batch norm folded into convolutions, on the same device.

    A leading Normalise layer is taken off and its statistics returned: the sampler applies them
    while it adds the noise. A network that cannot be traced is returned as it is.
    """
    network, mean_C, std_C = _peel(copy.deepcopy(model).eval())
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return Folded(network, mean_C, std_C)
    # Takes a second to import
    from torch.fx.experimental.optimization import fuse

    try:
        folded = fuse(network)
        is_same = _agrees(network, folded, image_shape)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as problem:  # a user's forward may raise anything at all when traced
        return Folded(network, mean_C, std_C, f"it cannot be traced ({one_line(problem)})")
    if not is_same:
        why = "the folded network's logits are not the network's"
        return Folded(network, mean_C, std_C, why)
    return Folded(folded, mean_C, std_C)


def with_float32_head(network: nn.Module, half: torch.dtype) -> nn.Module:
    """Return the network in bfloat16 or float16 with its last linear layer in float32.

    bfloat16 logits have 8 bits: two classes would often tie and the lower one win. The layer costs
    next to nothing. Of an ensemble it is each member's.
    """
    names = heads_of(network)
    network = network.to(half)
    for name in names:
        head = _Float32Linear(cast(nn.Linear, network.get_submodule(name)))
        if not name:
            return head
        parent_name, _, own_name = name.rpartition(".")
        setattr(network.get_submodule(parent_name), own_name, head)
    return network


def with_pairwise_pools(network: nn.Module) -> nn.Module:
    """Return the network with its 2x2 max-pools as elementwise maxima: the same values.

    On a CPU torch's own pooling takes about a fifth of LeNet's forward pass, this a tenth.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if _is_two_by_two(child):
                setattr(module, name, _PairwiseMax())
    return _PairwiseMax() if _is_two_by_two(network) else network


def _is_two_by_two(module: nn.Module) -> bool:
    if type(module) is not nn.MaxPool2d:
        return False
    pair = nn.modules.utils._pair
    sizes = [pair(each) for each in (module.kernel_size, module.stride)]
    is_plain = not (module.ceil_mode or module.return_indices)
    is_dense = pair(module.padding) == (0, 0) and pair(module.dilation) == (1, 1)
    return sizes == [(2, 2), (2, 2)] and is_plain and is_dense


class _PairwiseMax(nn.Module):
    """The largest of each 2x2 pixels; a last odd row or column is left out, as MaxPool2d does."""

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Return features [N, C, H // 2, W // 2]."""
        height, width = features_NCHW.shape[-2] // 2 * 2, features_NCHW.shape[-1] // 2 * 2
        even = features_NCHW[..., :height, :width]
        rows = torch.maximum(even[..., 0::2, :], even[..., 1::2, :])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


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
    # A subclass may do other things
    if type(model) is not nn.Sequential or len(model) < 2:
        return model, None, None
    layer = model[0]
    if not isinstance(layer, Normalise):
        return model, None, None
    rest = model[1] if len(model) == 2 else model[1:]
    return rest, layer.mean.flatten().float(), layer.std.flatten().float()


@torch.no_grad()
def _agrees(network: nn.Module, folded: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    probe = torch.rand((2, *image_shape), generator=torch.Generator().manual_seed(0))
    probe = as_images_for(network, probe)
    want, got = logits_of(network(probe.clone())), folded(probe.clone())
    return bool((want - got).abs().max() <= allowed_difference(want, TOLERANCE))
