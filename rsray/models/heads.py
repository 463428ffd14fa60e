"""The last linear layers of a network: they compute in float32 where the rest is in half precision.

bfloat16 logits have 8 bits: between 8 and 16 they are 1/16 apart, so that classes tie and losses
with a temperature or an attack see steps. In float32 the layers cost next to nothing.
"""

# Shapes: N images, K classes.
from __future__ import annotations

import operator
from typing import Any, cast

import torch
import torch.fx
from torch import Tensor, nn

from rsray.models.mean_logits import MeanLogits


def keep_heads_in_float32(network: nn.Module) -> None:
    """Make the network's last linear layers give float32 logits under autocast, too."""
    for name in heads_of(network):
        network.get_submodule(name).register_forward_hook(_in_float32)


def _in_float32(layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> Tensor:
    """Return the layer's output [N, K] in its weights' type, in place of what autocast gave.

    A user's own layer, derived from nn.Linear, computes what its own forward does.
    """
    kind = cast(nn.Linear, layer).weight.dtype
    with torch.autocast(inputs[0].device.type, enabled=False):
        return cast(Tensor, layer.forward(*(each.to(kind) for each in inputs)))


def heads_of(network: nn.Module) -> list[str]:
    """Return the names of the linear layers whose output, or sum, the network returns.

    Where the network cannot be traced it is taken to be the one that was registered last.
    """
    if isinstance(network, nn.Linear):
        return [""]
    if isinstance(network, MeanLogits):
        members = enumerate(network.members)
        return [f"members.{i}.{name}".rstrip(".") for i, each in members for name in heads_of(each)]
    try:
        graph = torch.fx.symbolic_trace(network).graph
    except Exception:  # a user's forward may raise anything at all when traced
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        return names[-1:]
    found, waiting = [], [graph.output_node().args[0]]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, torch.fx.Node) or len(node.users) > 1:
            return []
        if node.op == "call_module" and isinstance(
            network.get_submodule(str(node.target)), nn.Linear
        ):
            found.append(str(node.target))
        elif node.op == "call_function" and node.target in (operator.add, operator.truediv):
            waiting += [each for each in node.args if isinstance(each, torch.fx.Node)]
        else:
            return []
    return list(dict.fromkeys(found))
