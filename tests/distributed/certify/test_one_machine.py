"""Where a certification is counted, and that it does not matter where."""

from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

import rsray
from rsray.certification.counting.own_processes import OwnProcesses
from rsray.config import CertifyConfig
from rsray.distributed.capacity import FleetSize
from rsray.distributed.certify import certifier, one_machine
from rsray.distributed.certify.one_machine import fleet_of_one_machine
from rsray.progress import Watch

CONFIG = CertifyConfig.make(
    {"source": "RUN", "model_digest": "d", "dataset": "digits", "model": "lenet", "num_classes": 10,
     "sigma": 0.25, "image_shape": (1, 8, 8)}
)  # fmt: skip


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(one_machine, "available_cpus", lambda: 2)
    monkeypatch.setattr(one_machine, "usable_gpus", lambda: 0)


@pytest.mark.parametrize(
    ("changes", "address", "fleet"),
    [
        ({}, None, FleetSize(2, 1, 0.0, most=2)),
        ({"actors": 1}, None, FleetSize(1, 2, 0.0)),
        ({"actors": 1, "most_actors": 8}, None, None),
        ({"gpus_per_actor": 1.0}, None, None),
        ({}, "local", None),
        ({}, "10.0.0.1:6379", None),
    ],
)
def test_one_machine_does_the_whole_job_unless_a_cluster_or_a_gpu_is_asked_for(
    two_cores, monkeypatch, changes, address, fleet
):
    monkeypatch.setattr(one_machine, "is_cluster_open", lambda: False)
    assert fleet_of_one_machine(CONFIG.model_copy(update=changes), address) == fleet


def test_a_cluster_of_the_environment_and_a_gpu_here_are_used(two_cores, monkeypatch):
    monkeypatch.setattr(one_machine, "usable_gpus", lambda: 1)
    assert fleet_of_one_machine(CONFIG, None) is None
    no_gpu = CONFIG.model_copy(update={"gpus_per_actor": 0.0})
    assert fleet_of_one_machine(no_gpu, None) is not None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert fleet_of_one_machine(no_gpu, None) is None


@pytest.mark.parametrize("is_users", [True, False])
def test_a_users_factory_is_not_run_here_to_measure_it(is_users, monkeypatch):
    tried = []
    monkeypatch.setattr(one_machine, "_forecast_seconds", lambda *given: tried.append(1) or 2.0)
    monkeypatch.setattr(one_machine, "OwnProcesses", lambda *given: given)
    run = SimpleNamespace(
        draws_left=lambda: 1000,
        counter_settings=lambda threads: None,
        claimed=SimpleNamespace(evaluation=SimpleNamespace(draws_per_second=100.0)),
        plan=SimpleNamespace(is_same_for_all=True),
        request=SimpleNamespace(source=SimpleNamespace(is_users_code=is_users)),
    )
    _, seconds = one_machine.own_processes(run, FleetSize(2, 1, 0.0))
    assert (seconds, tried) == ((5.0, []) if is_users else (2.0, [1]))


def rows(cert):
    return pq.read_table(cert.place.local_path / "certificates.parquet")


@pytest.mark.slow
def test_counts_are_equal_either_way_and_a_run_goes_on_the_other_way(
    ray_session, digits_run, tmp_path, monkeypatch
):
    given = {"n": 600, "block_size": 200, "limit": 6, "precision": "fp32", "progress": False}
    on_ray = rsray.certify(digits_run, address="local", out=tmp_path / "ray", **given)
    monkeypatch.setattr(certifier, "session", None)  # which an own process does not ask for
    here = rsray.certify(digits_run, out=tmp_path / "here", **given)
    assert rows(here).equals(rows(on_ray))
    monkeypatch.undo()

    def stop(snapshot):
        if snapshot["draws"]:
            raise KeyboardInterrupt

    for first, then in ((None, "local"), ("local", None)):
        out = tmp_path / f"{first}-{then}"
        # One image after the other, so that something is left.
        monkeypatch.setattr(OwnProcesses, "task_seconds", 1e-6)
        with pytest.raises(KeyboardInterrupt):
            watch = Watch(certifying=stop)
            rsray.certify(digits_run, out=out, address=first, **{**given, "progress": watch})
        assert rows(rsray.certify(digits_run, out=out, address=then, **given)).equals(rows(here))
