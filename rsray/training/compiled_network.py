"""torch.compile of the network's training passes, when that pays, and what runs where it fails."""

# Shapes: N images, C H W an image, K classes.
from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rsray.core.compiling import why_not_compiled

log = logging.getLogger(__name__)
# Of a run on a GPU: the minutes of compiling are won back several times.
PAYS_FROM_STEPS = 10_000


def is_worth_compiling(compile: str, steps: int, device: torch.device) -> bool:
    """Decide `--compile auto|on|off` for a run of so many steps."""
    return compile == "on" or (
        compile == "auto" and device.type == "cuda" and steps >= PAYS_FROM_STEPS
    )


class CompiledNetwork(nn.Module):
    """A network in compiled code, and as it is from the first pass on that cannot be compiled.

    Code is made for each shape of input alone, so what a batch computes depends on no batch before
    it. Forward and backward code of a pass are made before anything of it is computed (under
    rsray.core.compiling.compile_settings): after a failure the pass runs as if it were the first.
    """

    def __init__(self, module: nn.Module, on_failure: Callable[[str], object]) -> None:
        """Wrap a network; `on_failure` gets why it is not compiled."""
        super().__init__()
        self.module, self.on_failure = module, on_failure
        self.compiled: Callable[[Tensor], Tensor] | None = torch.compile(self._run, dynamic=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        if self.compiled is None:
            return self._run(images_NCHW)
        # Loaded by the first compilation, if not before
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.compiled(images_NCHW)
        except TorchDynamoException as problem:
            self.compiled, why = None, why_not_compiled(problem)
        log.warning("the network is not compiled and trains as it is: %s", why)
        self.on_failure(why)
        return self._run(images_NCHW)

    def _run(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.module(images_NCHW)
        return logits
