"""Which GPUs torch computes on here, why not on one that is here, and how data gets there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)
NVIDIA_DRIVER, AMD_DRIVER = Path("/proc/driver/nvidia/version"), Path("/dev/kfd")
MOST_CHARACTERS_SHOWN = 200


@cache
def usable_gpus() -> int:
    """Return how many GPUs torch computes on here.

    Where there are others, one line of warning says why they are not used.
    """
    if reason := why_gpus_are_unused():
        log.warning("computing on the CPU: %s", reason)
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def why_gpus_are_unused() -> str | None:
    """Return in a line why torch does not compute on a GPU that is here, or None."""
    if torch.cuda.is_available():
        return next(filter(None, map(_lacking_kernels, range(torch.cuda.device_count()))), None)
    if NVIDIA_DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        return f"torch {torch.__version__} cannot use the NVIDIA GPU ({_why_cuda_fails()})"
    if AMD_DRIVER.exists() and os.environ.get("HIP_VISIBLE_DEVICES") not in ("", "-1"):
        built = "finds none it can use" if torch.version.hip else "is built without ROCm"
        return f"there is an AMD GPU, and torch {torch.__version__} {built}"
    if torch.backends.mps.is_available():
        return "Apple's GPUs (MPS) are not supported; NVIDIA's and AMD's are"
    if torch.xpu.is_available():
        return "Intel's GPUs (XPU) are not supported; NVIDIA's and AMD's are"
    return None


def why_gpu_fails() -> str | None:
    """Return in a line why no network can be computed on a GPU of this process, or None."""
    if not usable_gpus():
        return why_gpus_are_unused() or f"torch {torch.__version__} finds no GPU it can use"
    try:
        image_1CHW = torch.ones((1, 3, 8, 8), device="cuda")
        kernels = torch.ones((4, 3, 3, 3), device="cuda")
        sums = torch.nn.functional.conv2d(image_1CHW, kernels)
        is_right = bool((sums == 27).all())
    except RuntimeError as problem:
        return _shortened(problem)
    return None if is_right else "it computes a convolution wrongly"


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; to a GPU through pinned memory, without waiting for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _lacking_kernels(index: int) -> str | None:
    """Return in a line that torch was not built for a GPU, or None."""
    built_for, facts = torch.cuda.get_arch_list(), torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        own = str(facts.gcnArchName).partition(":")[0]
        is_known = own in built_for
    else:
        own = f"sm_{facts.major}{facts.minor}"
        is_known = has_kernels((facts.major, facts.minor), built_for)
    if is_known or not built_for:
        return None
    return (
        f"torch {torch.__version__} has no kernels for {facts.name} ({own}), only for "
        f"{', '.join(built_for)}; CUDA_VISIBLE_DEVICES can name other GPUs"
    )


def has_kernels(capability: tuple[int, int], built_for: Iterable[str]) -> bool:
    """Tell whether a GPU of a compute capability runs what torch was built for.

    Machine code (sm_86) runs on the same major version from its minor version on, intermediate code
    (compute_120) on all later GPUs.
    """
    for name in built_for:
        kind, _, number = name.rstrip("af").partition("_")
        theirs = divmod(int(number), 10)
        if theirs <= capability and (kind == "compute" or theirs[0] == capability[0]):
            return True
    return False


def _why_cuda_fails() -> str:
    if torch.version.cuda is None:
        return "it is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as problem:
        return _shortened(problem)
    return "it finds none that is free to use"


def _shortened(problem: RuntimeError) -> str:
    """Return the first line of what CUDA says, which goes on for a screen."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines or [type(problem).__name__])[0][:MOST_CHARACTERS_SHOWN]
