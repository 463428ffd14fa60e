"""What `--cluster` leaves behind when no job could be started."""

from types import SimpleNamespace

import pytest
from cluster.edited import CLUSTERS, edit
from typer.testing import CliRunner

from rsray.cluster import dashboard, jobs, launcher, packaging
from rsray.errors import UserError
from rsray_cli import cluster


@pytest.fixture
def yaml(tmp_path):
    return str(edit(CLUSTERS / "local.yaml", tmp_path))


@pytest.fixture
def calls(yaml, monkeypatch):
    """Return the list of what was called of a launcher that brings nothing up."""
    made = []

    def fail(*given):
        made.append("up")
        raise UserError("ray up failed: no quota")

    monkeypatch.setattr(launcher, "is_up", lambda cluster: False)
    monkeypatch.setattr(launcher, "bring_up", fail)
    monkeypatch.setattr(launcher, "take_down", lambda cluster, say: made.append("down"))
    monkeypatch.setattr("sys.argv", ["rsray", "train", "--dataset", "digits", "--cluster", yaml])
    return made


@pytest.mark.parametrize("down", [True, False])
def test_a_cluster_that_did_not_come_up_is_taken_down_where_that_was_asked(
    calls, yaml, down, capsys
):
    with pytest.raises(UserError, match="no quota"):
        cluster.run_there(yaml, down=down)
    assert calls == ["up", *(["down"] if down else [])]
    assert f"rsray cluster down {yaml}" in capsys.readouterr().err


def test_a_cluster_that_was_up_stays_up_when_a_job_is_refused(calls, yaml, monkeypatch):
    def refuse(*given):
        raise UserError("does not take the job")

    monkeypatch.setattr(launcher, "is_up", lambda cluster: True)
    monkeypatch.setattr(launcher, "bring_up", lambda *given: None)
    monkeypatch.setattr(dashboard, "connect_dashboard", refuse)
    with pytest.raises(UserError, match="does not take the job"):
        cluster.run_there(yaml, down=True)
    assert calls == []


def test_what_cannot_be_sent_is_told_before_machines_start(calls, yaml, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rsray", "train", "--model", "nowhere_to_be_found:net"])
    with pytest.raises(UserError, match="nowhere_to_be_found"):
        cluster.run_there(yaml)
    assert calls == []


@pytest.mark.parametrize("came_from", [None, "other", "rsray-local"])
def test_results_of_a_cluster_come_among_no_others(calls, yaml, tmp_path, monkeypatch, came_from):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "run"
    if came_from is not None:
        record = {"job": "j", "out_there": "~/there", "out_here": str(out)}
        jobs.keep_record(jobs.JobRecord(cluster=came_from, **record))
    out.mkdir()
    (out / "run.yaml").write_text("seed: 0")
    is_own = came_from == "rsray-local"
    with pytest.raises(UserError, match="no quota" if is_own else "is not empty, and nothing in"):
        cluster.run_there(yaml, out=str(out))
    assert calls == (["up"] if is_own else [])


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_net.py").write_text("def net(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    line = SimpleNamespace(inputs={}, modules=("my_own_net",))
    assert "my_own_net.py" in [file.there for file in packaging.files_to_send(line)]


def test_submit_refuses_what_it_would_drop(yaml):
    words = ["submit", yaml, "certify", "run", "--down"]
    found = CliRunner().invoke(cluster.app, words)
    assert isinstance(found.exception, UserError) and "neither" in str(found.exception)
