"""Which GPUs are used, and the line that says why one is not: with capabilities made up."""

from types import SimpleNamespace

import pytest
import torch

from rsray.core import gpus
from rsray.core.gpus import has_kernels, usable_gpus, why_gpu_fails, why_gpus_are_unused
from rsray.core.hardware import default_device

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine without any GPU; returns what puts some into it."""

    def put(*chips, built_for=WHEEL, hip=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(chips))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(chips))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: chips[index])
        monkeypatch.setattr(torch.version, "hip", hip)
        usable_gpus.cache_clear()

    put()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(gpus, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(gpus, "AMD_DRIVER", tmp_path / "kfd")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    yield put
    usable_gpus.cache_clear()


def chip(name, major, minor, architecture="gfx90a:sramecc+"):
    return SimpleNamespace(name=name, major=major, minor=minor, gcnArchName=architecture)


H100, V100 = chip("H100", 9, 0), chip("Tesla V100", 7, 0)


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((6, 0), False), ((7, 0), False), ((7, 5), True), ((8, 0), True), ((8, 9), True),
        ((9, 0), True), ((10, 3), True), ((11, 0), False), ((12, 1), True),
    ],
)  # fmt: skip
def test_machine_code_runs_on_its_major_version_only(capability, runs):
    assert has_kernels(capability, WHEEL) is runs


def test_intermediate_code_runs_on_all_later_gpus():
    assert has_kernels((12, 0), ["sm_80", "compute_90"])
    assert not has_kernels((8, 0), ["sm_90a", "compute_90"])
    assert has_kernels((9, 0), ["sm_90a"])


def test_a_machine_with_gpus_uses_them(machine, caplog):
    machine(H100, H100)
    assert usable_gpus() == 2 and default_device() == torch.device("cuda", 0)
    assert not caplog.records


def test_a_gpu_without_kernels_is_left_alone_and_a_line_says_so_once(machine, caplog):
    machine(H100, V100)
    assert usable_gpus() == usable_gpus() == 0 and default_device().type == "cpu"
    (record,) = caplog.records
    assert "no kernels for Tesla V100 (sm_70)" in record.getMessage()
    assert "sm_75" in record.getMessage() and "\n" not in record.getMessage()


def test_amd_gpus_are_known_by_their_architecture(machine):
    machine(chip("MI250", 9, 0), built_for=["gfx90a", "gfx942"], hip="6.4")
    assert usable_gpus() == 1
    machine(chip("RX 580", 8, 0, "gfx803"), built_for=["gfx90a", "gfx942"], hip="6.4")
    assert "no kernels for RX 580 (gfx803)" in why_gpus_are_unused()


def test_an_amd_gpu_that_torch_is_not_built_for_is_named(machine, monkeypatch):
    gpus.AMD_DRIVER.touch()
    assert "AMD GPU" in why_gpus_are_unused() and "without ROCm" in why_gpus_are_unused()
    machine(hip="6.4")
    assert why_gpus_are_unused().endswith("finds none it can use") and usable_gpus() == 0
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert why_gpus_are_unused() is None, "the user hides them"


def test_an_old_driver_is_named_by_what_cuda_says(machine, monkeypatch):
    def old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nGo")

    gpus.NVIDIA_DRIVER.write_text("NVRM version")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", old)
    assert why_gpus_are_unused().endswith("is too old (found version 11040).)")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in why_gpus_are_unused()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_gpus_are_unused() is None, "the user hides them"


def test_apples_and_intels_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    assert "Intel's GPUs (XPU) are not supported" in why_gpus_are_unused()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "Apple's GPUs (MPS) are not supported" in why_gpus_are_unused()
    assert usable_gpus() == 0


def test_a_probe_computes(machine, monkeypatch):
    assert "finds no GPU" in why_gpu_fails()
    machine(H100)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda shape, device: ones(shape))
    assert why_gpu_fails() is None

    def fail(*_):
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with `TORCH_USE")

    monkeypatch.setattr(torch.nn.functional, "conv2d", fail)
    assert why_gpu_fails() == "CUDA error: no kernel image is available"
