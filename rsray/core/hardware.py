"""What the machine can do: devices, bfloat16, and the versions that a result depends on."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

import torch

from rsray.core.gpus import usable_gpus
from rsray.family import choose

# Networks compute in these, by the precision's name; their heads stay in float32.
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", *HALF_TYPES)
# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# bytes: no tensor of ours on a CPU is as large
_NEVER = 2**30


def default_device() -> torch.device:
    """Return the first GPU where torch computes on one, else the CPU."""
    return torch.device("cuda", 0) if usable_gpus() else torch.device("cpu")


def available_cpus() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory that this process may still take; None where nothing says it.

    In a container that is what its limit leaves, although the machine has more.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError):
        return None
    free = int(line.split()[1]) * 1024
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text() for name in ("max", "current"))
        # What it holds of files is given up when memory is wanted.
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        left = int(limit) - int(used) + int(stat.get("inactive_file", 0))
    # Without cgroups, or without a limit ("max").
    except (OSError, ValueError):
        return free
    return max(0, min(free, left))


def dedicate_process(threads: int | None = None, gpus: float = 0.0) -> None:
    """Set this process up for a long computation on `threads` CPU threads (None: as they are).

    On a part of a GPU (0 < `gpus` < 1) it takes no more than that part of its memory.

    Memory that is freed stays with the process. glibc gives large pieces back to the kernel and
    gets them again page by page, zeroed, in every forward pass: that was a quarter of the time of
    small networks (README). For processes of our own only, and a no-op where there is no glibc.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER)
    if 0 < gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpus)


def forbid_tf32() -> None:
    """Make float32 mean float32: by default convolutions on GPUs keep 10 bits of mantissa."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@cache
def computes_bf16(device_type: str) -> bool:
    """Tell whether the hardware computes bfloat16 itself, rather than by conversion to float32."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    flags = _told_of_cpu("flags", "Features").split()
    return bool({"avx512_bf16", "amx_bf16", "bf16"}.intersection(flags))


def _told_of_cpu(*names: str) -> str:
    """Return what Linux says of the first core under one of these names; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def resolve_precision(precision: str | None, device: torch.device) -> str:
    """Return the precision asked for, or bf16 where the hardware computes it, else fp32."""
    if precision is None:
        return "bf16" if computes_bf16(device.type) else "fp32"
    return choose(precision, PRECISIONS, "precision")


def fastest_precision(precision: str | None, device: torch.device) -> str:
    """Return the precision asked for, else the hardware's fastest for a network that is trained.

    GPUs that do not compute bf16 are several times as fast in fp16 as in fp32.
    """
    if precision is None and device.type == "cuda" and not computes_bf16("cuda"):
        return "fp16"
    return resolve_precision(precision, device)


def device_name(device: torch.device) -> str:
    """Return the name of the chip, as its maker calls it.

    Of a CPU with the instructions that torch uses: virtual machines have them in part.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = _told_of_cpu("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
