import platform
import subprocess
import sys

import pytest
import torch

from rsray.core.hardware import (
    computes_bf16,
    dedicate_process,
    fastest_precision,
    free_memory,
    resolve_precision,
)

FAULTS = """
import resource, sys, torch
from rsray.core.hardware import dedicate_process
if sys.argv[1] == "dedicated":
    dedicate_process(1)
for _ in range(40):
    if _ == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)  # 40 MB: more than glibc keeps of itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_a_dedicated_process_keeps_the_memory_that_is_freed():
    faults = {}
    for how in ("usual", "dedicated"):
        command = [sys.executable, "-c", FAULTS, how]
        faults[how] = int(subprocess.run(command, check=True, capture_output=True).stdout)
    pages = 40_000_000 // 4096  # of one tensor
    assert faults["dedicated"] < pages / 10
    assert faults["usual"] > 10 * faults["dedicated"] + 10  # huge pages make few faults


def test_a_dedicated_process_takes_its_threads():
    before = torch.get_num_threads()
    try:
        dedicate_process(1)
        assert torch.get_num_threads() == 1
        dedicate_process()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_a_gpu_without_bf16_counts_in_fp16_and_trains_in_fp32(capability, precision, monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    computes_bf16.cache_clear()
    assert fastest_precision(None, cuda) == precision
    assert resolve_precision(None, cuda) == ("bf16" if precision == "bf16" else "fp32")
    assert fastest_precision("fp32", cuda) == "fp32"
    assert fastest_precision(None, torch.device("cpu")) != "fp16"
    computes_bf16.cache_clear()


def test_free_memory_is_what_the_machine_and_the_container_leave(tmp_path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    assert free_memory(proc, cgroup) is None
    for folder in (proc, cgroup):
        folder.mkdir()
    (proc / "meminfo").write_text("MemTotal: 900 kB\nMemFree: 100 kB\nMemAvailable:  400 kB\n")
    assert free_memory(proc, cgroup) == 400 * 1024
    (cgroup / "memory.current").write_text("60000\n")
    (cgroup / "memory.stat").write_text("anon 10\ninactive_file 5000\n")
    for limit, expected in (
        ("max", 400 * 1024),
        ("100000", 45000),
        ("10000", 0),
        ("9" * 18, 409600),
    ):
        (cgroup / "memory.max").write_text(limit)
        assert free_memory(proc, cgroup) == expected
