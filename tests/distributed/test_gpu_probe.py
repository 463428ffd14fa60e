"""Work on GPUs that Ray counts and torch cannot use is refused in a line, before it starts."""

import subprocess
import sys
import types
from contextlib import nullcontext

import pytest
import ray
from ray.exceptions import RayTaskError
from ray.train import ControllerError

from rsray.core import gpus
from rsray.core.gpus import usable_gpus
from rsray.distributed import gpu_probe
from rsray.distributed.capacity import Capacity, check_room
from rsray.distributed.gpu_probe import check_gpus
from rsray.distributed.search.trial_resources import nodes_for
from rsray.distributed.train import training_run
from rsray.distributed.train.failures import cause_of, end_of_reason, is_machines_fault
from rsray.distributed.train.training_run import TrainingRun
from rsray.errors import UserError
from rsray.presets import train_config
from rsray.storage import Place
from rsray_cli import doctor

FROM_ZERO = Capacity(((0.0, 0.0),), 64.0, 8.0)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster whose tasks with a GPU answer in this process, and what was asked of it."""
    asked = []

    def remote(**resources):
        asked.append(resources)
        return lambda work: types.SimpleNamespace(remote=work)

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "wait", lambda answers, timeout: (answers, []))
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(gpu_probe, "is_this_machine", lambda: False)
    return asked


def run_of(tmp_path, **flat):
    config = train_config({"dataset": "digits", "epochs": 1, **flat})
    return TrainingRun(config, Place.of(tmp_path), None, False, False, config.gpus_per_worker or 0)


@pytest.mark.skipif(usable_gpus() > 0, reason="torch can use the GPU")
def test_a_probe_asks_for_a_gpu_and_refuses_in_one_line(cluster):
    with pytest.raises(UserError, match="finds no GPU it can use; Ray counts that GPU") as caught:
        check_gpus(4)
    assert "\n" not in str(caught.value)
    assert cluster == [{"num_cpus": 0, "num_gpus": 1, "max_retries": 0}]


def test_cpus_and_the_gpus_of_this_machine_need_no_probe(cluster, monkeypatch):
    check_gpus(0)
    monkeypatch.setattr(gpu_probe, "is_this_machine", lambda: True)
    monkeypatch.setattr(gpu_probe, "usable_gpus", lambda: 2)
    check_gpus(1)
    assert cluster == []


def test_a_probe_waits_for_a_node_and_says_so(cluster, monkeypatch, caplog):
    looks = iter([([], ["answer"]), (["answer"], [])])
    monkeypatch.setattr(ray, "wait", lambda answers, timeout: next(looks))
    monkeypatch.setattr(ray, "get", lambda answer: None)
    check_gpus(0.5)
    assert [record.getMessage() for record in caplog.records] == ["waiting for a GPU that is free"]
    assert cluster[0]["num_gpus"] == 0.5


def test_training_takes_the_gpus_that_a_cluster_from_zero_can_have(tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "capacity", lambda: FROM_ZERO)
    assert run_of(tmp_path, workers=8).on_cluster().gpus == 1
    assert run_of(tmp_path, gpus_per_worker=0).on_cluster().gpus == 0
    check_room(FROM_ZERO, 8, 1.0)
    check_room(FROM_ZERO, 64, 0.0)
    with pytest.raises(UserError, match="workers is 9: that needs 9 GPUs, the cluster has 8"):
        check_room(FROM_ZERO, 9, 1.0)


def test_a_search_waits_for_the_first_gpu_of_a_cluster_from_zero(monkeypatch):
    from rsray.distributed.search import trial_resources

    asked = []
    search = types.SimpleNamespace(
        config=types.SimpleNamespace(train=train_config({"dataset": "digits"}))
    )
    monkeypatch.setattr(trial_resources, "check_gpus", asked.append)
    monkeypatch.setattr(trial_resources, "capacity", lambda: FROM_ZERO)
    nodes_for(search)
    monkeypatch.setattr(trial_resources, "capacity", lambda: Capacity(((8.0, 0.0),), 8.0, 0.0))
    nodes_for(search)
    assert asked == [1.0]


def test_a_group_that_cannot_be_set_up_shows_the_end_of_its_reason():
    trace = "ray::execute._setup()\n" + 'File "worker.py", line 1\n' * 50
    cause = RayTaskError("setup", trace + "RuntimeError: no GPU is there", RuntimeError("no"))
    found = cause_of(ControllerError(cause))
    assert end_of_reason(found) == "RuntimeError: no GPU is there"
    assert is_machines_fault(found)
    assert end_of_reason(RuntimeError("x" * 999 + "end")).endswith("end")
    assert end_of_reason(RuntimeError()) == "RuntimeError"


# Each command in a Ray that is told of GPUs, as one with an Apple GPU counts them.
SCRIPT = """
import sys
import rsray.distributed
import ray
from rsray_cli.main import run
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
for command in sys.argv[1:]:
    sys.argv = ["rsray", *command.split()]
    try:
        run()
    except SystemExit as end:
        print("exit status", end.code, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(usable_gpus() > 0, reason="torch can use the GPU")
def test_commands_refuse_gpus_that_ray_counts_and_torch_cannot_use(digits_run, tmp_path):
    commands = [
        f"train --dataset digits --workers 2 --out {tmp_path}/run",
        f"tune --dataset digits --out {tmp_path}/tune",
        f"certify {digits_run} --n 1000 --out {tmp_path}/cert",
        f"certify {digits_run} --n 1000 --limit 2 --gpus-per-actor 0 --out {tmp_path}/cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *commands], capture_output=True, text=True, timeout=300
    )
    assert [line for line in done.stderr.splitlines() if line.startswith("exit")] == [
        *["exit status 2"] * 3, "exit status 0",
    ]  # fmt: skip
    assert done.stderr.count("Ray counts that GPU") == 3 and "Traceback" not in done.stderr
    assert (tmp_path / "cpu/certificates.parquet").is_file()


def test_doctor_says_why_a_gpu_of_this_machine_is_not_used(monkeypatch, capsys):
    monkeypatch.setattr(gpus, "why_gpus_are_unused", lambda: "torch has no kernels for Tesla V100")
    doctor.doctor(ray=False)
    assert (
        "!!  gpu        not used here: torch has no kernels for Tesla V100"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("node: no kernel image", "!!  gpu        node: no kernel image"),
        (None, "ok  gpu        a task computed"),
    ],
)
def test_doctor_shows_the_probe_of_a_cluster(monkeypatch, capsys, failure, line):
    answers = types.SimpleNamespace(
        get=lambda answer, timeout: 42,
        remote=lambda **resources: lambda work: types.SimpleNamespace(remote=lambda: None),
        nodes=lambda: [{"Alive": True}],
    )
    session = "rsray.distributed.session"
    monkeypatch.setattr(f"{session}.session", lambda address: nullcontext(answers))
    monkeypatch.setattr(f"{session}.cluster_cpus", lambda: 8)
    monkeypatch.setattr(f"{session}.cluster_gpus", lambda: 2.0)
    monkeypatch.setattr(gpu_probe, "probe_gpu", lambda gpus: failure)
    with nullcontext() if failure is None else pytest.raises(SystemExit) as stopped:
        doctor.doctor(address="10.0.0.9:6379")
    assert stopped is None or stopped.value.code == 1
    assert line in capsys.readouterr().out
