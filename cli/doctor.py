"""`rsray doctor`: is this machine ready, and what will rsray use of it."""

from __future__ import annotations

import shutil
import time
from typing import NamedTuple

from rsray.config import CertifyConfig, Doctoring, Running
from rsray.errors import UserError, printable
from rsray.screen import say
from rsray_cli.options import command, options_of

LITTLE_SPACE_GB = 2


class Finding(NamedTuple):
    """One line: what was looked at, how it is, and what to do about it."""

    what: str
    text: str
    is_well: bool = True
    # Whether rsray cannot work like this.
    is_broken: bool = False


@command(
    options_of(CertifyConfig, "data_root"),
    options_of(Running, "address"),
    options_of(Doctoring, "ray"),
)
def doctor(data_root: str | None = None, address: str | None = None, ray: bool = True) -> None:
    """Check versions, hardware, data sets and Ray, what is not well first; status 1 if broken.

    Example: rsray doctor --no-ray
    """
    from rsray.storage import Place

    if data_root is not None:
        # A bad address is refused before anything is looked at
        Place.of(data_root)
    found = [*_machine(), *_data(data_root), *(_ray(address) if ray else [])]
    for each in sorted(found, key=lambda each: each.is_well):
        print(f"{'ok' if each.is_well else '!!'}  {each.what:<10} {printable(each.text)}")
    if any(each.is_broken for each in found):
        say("next: mend what is broken, then rsray doctor")
        raise SystemExit(1)
    say("next: rsray tune --dataset digits")


def _machine() -> list[Finding]:
    """Return what there is of software, hardware and space."""
    from rsray.core.gpus import why_gpus_are_unused
    from rsray.core.hardware import (
        available_cpus,
        computes_bf16,
        default_device,
        device_name,
        resolve_precision,
    )
    from rsray.versions import versions

    device, free_gb = default_device(), shutil.disk_usage(".").free / 1e9
    native = "computed by the hardware" if computes_bf16(device.type) else "not in the hardware"
    room = "" if free_gb >= LITTLE_SPACE_GB else ": free some, or give --out on another disk"
    unused = why_gpus_are_unused()
    return [
        *([Finding("gpu", f"not used here: {unused}", False)] if unused else []),
        Finding("versions", ", ".join(f"{name} {found}" for name, found in versions().items())),
        Finding(
            "device", f"{device.type}: {device_name(device)}, {available_cpus()} CPU cores; "
            f"{resolve_precision(None, device)} by default (bf16 is {native})",
        ),
        Finding("disk", f"{free_gb:.0f} GB free here{room}", not room),
    ]  # fmt: skip


def _data(data_root: str | None) -> list[Finding]:
    """Return which data sets can be used, and what is wrong with others that are there."""
    from rsray.data import DATASETS, open_split
    from rsray.data._base import DataNotFoundError

    usable, absent, findings = [], [], []
    for name in DATASETS:
        try:
            split = open_split(name, "test", data_root)
        except UserError as problem:
            if isinstance(problem.__context__, DataNotFoundError):
                absent.append(name)
            else:
                findings.append(Finding("data", f"{name}: not usable ({problem})", False))
        else:
            usable.append(f"{name} ({len(split):,} test images, {split.num_classes} classes)")
    findings.append(Finding("data", "; ".join(usable)))
    if absent:
        advice = "give --data-root, or --download where there is one"
        findings.append(Finding("data", f"not here: {', '.join(absent)}; {advice}"))
    return findings


def _ray(address: str | None) -> list[Finding]:
    """Return whether Ray starts, or answers, and runs a task, and whether torch can use its GPUs."""
    from rsray.distributed.gpu_probe import probe_gpu
    from rsray.distributed.session import cluster_cpus, cluster_gpus, session

    started = time.perf_counter()
    try:
        with session(address) as ray:
            answer = ray.get(ray.remote(num_cpus=1)(lambda: 42).remote(), timeout=60)
            nodes = sum(node["Alive"] for node in ray.nodes())
            text = (
                f"{nodes} node(s), {cluster_cpus()} CPU cores, {cluster_gpus():g} GPUs, "
                f"a task ran after {time.perf_counter() - started:.1f} s"
            )
            found = [Finding("ray", text, answer == 42, answer != 42)]
            if cluster_gpus():
                failure = probe_gpu(1.0)
                well = "a task computed a convolution on one"
                found.append(Finding("gpu", failure or well, not failure, bool(failure)))
            return found
    except UserError as problem:
        advice = "; start it, or leave --address and RAY_ADDRESS out" if address else ""
        return [Finding("ray", f"broken: {problem}{advice}", False, True)]
