"""torch.compile with the weights frozen into the code, and when that pays.

Compiled code rounds at other places than eager code, so whether a network is compiled is part of
the certified function. Batch size was seen not to change a bit of compiled logits on a CPU (torch
2.15, one thread: LeNet at batches 64 to 384, ResNet-50 at 4 and 8), nor two threads those of
ResNet-50; ResNet-110 was not compared. So batch and format are constants of the image size here.
"""

# Shapes: B draws in a batch, C H W an image, K classes.
from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rsray.core.compiling import compile_settings, why_not_compiled
from rsray.core.independence import as_images_for

# Of work per actor: the 17 s of compiling are then won back twice (ResNets)
PAYS_SECONDS = 300.0
# How far compiled logits may be from those in float32: so many times as far as eager ones are, and
# this share of the largest logit. It is wrong code that is looked for.
TIMES, SHARE = 4.0, 0.02


# What one core or one GPU was seen to do in these networks, round figures: operations of
# convolutions and linear layers per second, and values that any layer writes.
_NOMINAL = {
    ("cpu", "fp32"): (8e10, 4e8),
    ("cpu", "bf16"): (2.5e11, 6e8),
    ("cpu", "fp16"): (8e10, 4e8),
    ("cuda", "fp32"): (2e13, 1e11),
    ("cuda", "bf16"): (1e14, 2e11),
    # Of a GPU without bf16: an older and smaller one.
    ("cuda", "fp16"): (2e13, 1e11),
}
Forward = Callable[[Tensor], Tensor]


class CompileError(RuntimeError):
    """The network cannot be compiled here."""


def compile_frozen(network: nn.Module, buffer_BCHW: Tensor) -> Forward:
    """Return `network` compiled for inputs of exactly the shape and strides of `buffer`.

    The function is ready: nothing is compiled when it is called. It raises RuntimeError rather
    than compile again, say for another number of threads. Raises CompileError, in one line, when
    there is no compiler, the network cannot be traced whole, or the compiled logits are not the
    network's.
    """
    device = buffer_BCHW.device
    compiled: Any = torch.compile(network, fullgraph=True, dynamic=False)
    # Noise in the buffer while it is compiled: zeros could hide a difference.
    generator = torch.Generator().manual_seed(0)
    buffer_BCHW.copy_(torch.rand(buffer_BCHW.shape, generator=generator))
    try:
        with torch.no_grad(), compile_settings(device, is_frozen=True):
            # CUDA graphs: run, record, replay
            for _ in range(3):
                got = compiled(buffer_BCHW).float().clone()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # tracer, code generator and C++ compiler raise what they like
        raise CompileError(why_not_compiled(problem)) from problem
    _check(network, buffer_BCHW, got)

    def forward(images_BCHW: Tensor) -> Tensor:
        with torch.compiler.set_stance("fail_on_recompile"):
            out: Tensor = compiled(images_BCHW)
        return out

    return forward


@torch.no_grad()
def _check(network: nn.Module, buffer_BCHW: Tensor, got_BK: Tensor) -> None:
    """Raise CompileError unless the compiled logits are as good as the network's own."""
    exact_BK = copy.deepcopy(network).float()(buffer_BCHW.float())
    own = float((network(buffer_BCHW).float() - exact_BK).abs().max())
    difference = float((got_BK - exact_BK).abs().max())
    if not difference <= TIMES * own + SHARE * (1e-3 + float(exact_BK.abs().max())):
        raise CompileError(f"its logits differ from the network's by {difference:.3g}")


def compiled_batch(image_shape: tuple[int, int, int], device_type: str) -> int:
    """Return the batch of a compiled network: fixed by the image size and the device type."""
    values = math.prod(image_shape)
    if device_type == "cuda":
        return 2048 if values < 10_000 else 256
    return 128 if values < 2_000 else 96 if values < 20_000 else 8


def is_worth_compiling(compile: str, work_seconds: float) -> bool:
    """Decide `--compile auto|on|off` for an actor with so much work before it."""
    return compile == "on" or (compile == "auto" and work_seconds >= PAYS_SECONDS)


@torch.no_grad()
def nominal_speed(
    model: nn.Module, image_shape: tuple[int, int, int], precision: str, device_type: str
) -> float:
    """Return about how many draws per second one core or GPU makes, without measuring.

    It counts the operations of the weighted layers in one forward pass and the values that all
    layers write, so it is the same whatever else the machine does: what `auto` decides must not
    differ between two runs of the same work.
    """
    network = copy.deepcopy(model).eval()
    # operations, values
    counted = [0, 0]

    def count(layer: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        counted[1] += output.numel()
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            counted[0] += 2 * output.numel() * weight[0].numel()

    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)
    network(as_images_for(model, torch.zeros((1, *image_shape))))
    operations_rate, values_rate = _NOMINAL[device_type, precision]
    return 1.0 / max(counted[0] / operations_rate + counted[1] / values_rate, 1e-9)
