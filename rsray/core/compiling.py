"""The settings under which torch.compile makes code here, and why it could not."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

COMPILE_PROCESSES_PER_GPU = 4
# Instances of a class share torch's recompile limit; each compiles once
_FRESH_CODE = 10_000


@contextlib.contextmanager
def compile_settings(device: torch.device, *, is_frozen: bool) -> Iterator[None]:
    """Set torch's compiler for the time of compiling; generated code stays in its own cache.

    A frozen network is not trained: its weights are constants, and on a GPU a pass is replayed.
    """
    # These take seconds to import
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    chosen: dict[str, Any] = {"freezing": is_frozen}
    if device.type == "cuda":
        chosen["triton.cudagraphs"] = is_frozen
        # Every actor compiles, beside others on its node; by default up to 32 processes each.
        chosen["compile_threads"] = COMPILE_PROCESSES_PER_GPU
        # Reductions would be laid out by timing them, in each actor for itself.
        if hasattr(inductor, "deterministic"):
            chosen["deterministic"] = True
    else:
        # An actor keeps to its share of the cores
        chosen["compile_threads"] = 1
    limits = {"recompile_limit": _FRESH_CODE, "accumulated_recompile_limit": _FRESH_CODE}
    # What cannot be compiled is known before anything is computed.
    whole = {"force_non_lazy_backward_lowering": True}
    # Warns of a CUDA that is not needed
    log = logging.getLogger("torch.utils.cpp_extension")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with inductor.patch(chosen), dynamo.patch(limits), functorch.patch(whole):
            yield
    finally:
        log.setLevel(before)


def why_not_compiled(problem: Exception) -> str:
    """Return in a line what the compiler says."""
    cause = getattr(problem, "inner_exception", None) or problem.__cause__ or problem
    line = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {line}"[:200]
