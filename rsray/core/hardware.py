"""What the machine can do: devices, bfloat16, and the versions that a result depends on."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch

from rsray.errors import UserError

PRECISIONS = ("fp32", "bf16")


def default_device() -> torch.device:
    """Return the first GPU where there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def available_cpus() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def computes_bf16(device_type: str) -> bool:
    """Tell whether the hardware computes bfloat16 itself, rather than by conversion to float32."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    flags = _cpu_flags()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    lines = info.read_text().splitlines()
    wanted = (line for line in lines if line.startswith(("flags", "Features")))
    return set(next(wanted, "").split())


def resolve_precision(precision: str | None, device: torch.device) -> str:
    """Return the precision asked for, or bf16 where the hardware computes it, else fp32."""
    if precision is None:
        return "bf16" if computes_bf16(device.type) else "fp32"
    if precision not in PRECISIONS:
        raise UserError(
            f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}"
        )
    return precision


def device_name(device: torch.device) -> str:
    """Return the name of the chip, as its maker calls it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    info = Path("/proc/cpuinfo")
    models = (
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    )
    return next(models, platform.processor() or platform.machine())
