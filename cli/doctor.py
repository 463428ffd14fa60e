"""`rsray doctor`: is this machine ready, and what will rsray use of it."""

from __future__ import annotations

from rsray.config import CertifyConfig, Doctoring, Running
from rsray_cli.options import command, options_of


@command(
    options_of(CertifyConfig, "data_root"),
    options_of(Running, "address"),
    options_of(Doctoring, "ray"),
)
def doctor(data_root: str | None = None, address: str | None = None, ray: bool = True) -> None:
    """Check versions, hardware, data sets and Ray; exits with status 1 if something is broken.

    Example: rsray doctor --no-ray
    """
    from rsray.core.hardware import (
        available_cpus,
        computes_bf16,
        default_device,
        device_name,
        resolve_precision,
    )
    from rsray.screen import show
    from rsray.storage import Place
    from rsray.versions import versions

    if data_root is not None:
        Place.of(data_root)  # a bad address is refused before anything is looked at
    show("versions   " + ", ".join(f"{name} {found}" for name, found in versions().items()))
    device = default_device()
    show(f"device     {device.type}: {device_name(device)}, {available_cpus()} CPU cores")
    native = "computed by the hardware" if computes_bf16(device.type) else "not in the hardware"
    show(f"precision  {resolve_precision(None, device)} by default (bf16 is {native})")
    _print_space()
    _print_data(data_root)
    if ray and not _check_ray(address):
        raise SystemExit(1)


def _print_space() -> None:
    import shutil

    from rsray.screen import show

    free = shutil.disk_usage(".").free
    show(f"disk       {free / 1e9:.0f} GB free here")


def _print_data(data_root: str | None) -> None:
    from rsray.data import DATASETS, open_split
    from rsray.errors import UserError
    from rsray.screen import show

    for name in DATASETS:
        try:
            split = open_split(name, "test", data_root)
        except UserError as problem:
            show(f"data       {name}: not usable ({problem})")
        else:
            show(f"data       {name}: {len(split):,} test images, {split.num_classes} classes")


def _check_ray(address: str | None) -> bool:
    import time

    from rsray.distributed.gpu_probe import probe_gpu
    from rsray.distributed.session import cluster_cpus, cluster_gpus, session
    from rsray.errors import UserError
    from rsray.screen import show

    started = time.perf_counter()
    try:
        with session(address) as ray:
            answer = ray.get(ray.remote(num_cpus=1)(lambda: 42).remote(), timeout=60)
            nodes = sum(node["Alive"] for node in ray.nodes())
            show(
                f"ray        {nodes} node(s), {cluster_cpus()} CPU cores, {cluster_gpus():g} GPUs, "
                f"a task ran after {time.perf_counter() - started:.1f} s"
            )
            failure = probe_gpu(1.0) if cluster_gpus() else None
            if cluster_gpus():
                print(f"gpu        {failure or 'a task computed a convolution on one'}")
            return bool(answer == 42 and failure is None)
    except UserError as problem:
        show(f"ray        broken: {problem}")
        return False
