"""A tracker is told of a run; the trackers are real ones, with their stores on this disk."""

import json
from types import SimpleNamespace

import pytest

import rsray
from rsray import tracking
from rsray.errors import UserError
from rsray.progress import Watch
from rsray.storage import Place
from rsray.tracking import tracked

SMALL = {"dataset": "digits", "objective": "gaussian", "epochs": 2, "limit": 200, "workers": 0}


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    found = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    found.set_tracking_uri(f"file:{tmp_path}/mlruns")
    return found


def runs_of(mlflow):
    return mlflow.search_runs(experiment_names=["rsray"], output_format="list")


def test_mlflow_has_settings_figures_and_files_of_a_training(mlflow, tmp_path):
    run = rsray.train(**SMALL, out=tmp_path / "run", track="mlflow", progress=False)
    (told,) = runs_of(mlflow)
    assert told.info.status == "FINISHED" and told.info.run_name == "run"
    assert told.data.params["objective"] == "gaussian" and told.data.params["epochs"] == "2"
    client = mlflow.MlflowClient()
    history = client.get_metric_history(told.info.run_id, "loss")
    expected = run.metrics["loss"].to_pylist()
    assert [(each.step, each.value) for each in history] == list(enumerate(expected))
    files = {each.path for each in client.list_artifacts(told.info.run_id)}
    assert files == {"run.yaml", "metrics.jsonl", "README.md", "model.safetensors"}


def test_the_same_folder_continues_the_same_run(mlflow, tmp_path):
    for _ in range(2):
        rsray.train(**SMALL, out=tmp_path / "run", track="mlflow", progress=False)
    assert len(runs_of(mlflow)) == 1


def test_mlflow_has_the_results_of_a_certification(mlflow, tmp_path):
    run = rsray.train(**SMALL, out=tmp_path / "run", progress=False)
    cert = rsray.certify(
        run, n=200, limit=5, actors=1, out=tmp_path / "cert", track="mlflow", progress=False
    )
    (told,) = runs_of(mlflow)
    assert told.data.metrics["acr"] == cert.acr
    at_zero = cert.summary["certified_accuracy"]["0.00"]
    assert told.data.metrics["certified_accuracy_at_0.00"] == at_zero
    # A setting is none of what came of it.
    assert told.data.params["n"] == "200" and "n" not in told.data.metrics


def test_a_failed_run_is_one_for_the_tracker_too(mlflow, tmp_path):
    with pytest.raises(UserError), tracked("mlflow", Watch(), Place.of(tmp_path), {}):
        raise UserError("no space left")
    assert [each.info.status for each in runs_of(mlflow)] == ["FAILED"]
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_wandb_offline_has_what_mlflow_has(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    rsray.train(**SMALL, out=tmp_path / "run", track="wandb", progress=False)
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    stored = record.read_bytes()
    assert b"noisy_accuracy" in stored and b"gaussian" in stored and b"model.safetensors" in stored


class Broken:
    """A tracker whose server goes away after the first figures."""

    told: list = []

    def __init__(self, name, where, settings):
        self.told.clear()

    def log(self, figures, step):
        self.told.append((figures, step))
        if len(self.told) > 1:
            raise ConnectionError("server is gone\nwith a second line")

    def finish(self, folder, succeeded):
        raise AssertionError("it is told no more")


def test_a_tracker_that_goes_away_ends_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Broken)
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    said, seen = [], []
    watch = Watch(say=said.append, training=seen.append)
    with tracked("mlflow", watch, Place.of(tmp_path), {}) as told:
        for epoch in range(3):
            figures = {"epoch": epoch, "loss": 0.5, "device": "cpu"}
            told.training(SimpleNamespace(epoch=epoch, epoch_figures=figures))
    assert Broken.told[0] == ({"loss": 0.5}, 0) and len(Broken.told) == 2
    assert len(seen) == 3
    assert said == ["mlflow takes no more of this run: server is gone"]


def test_a_search_tells_of_its_best_trial_and_its_winner(monkeypatch, tmp_path):
    told = []
    recorder = SimpleNamespace(
        log=lambda figures, step: told.append((figures, step)),
        finish=lambda folder, succeeded: told.append(sorted(p.name for p in folder.iterdir())),
    )
    monkeypatch.setitem(tracking.TRACKERS, "wandb", lambda *given: recorder)
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    summary = {"acr": 0.5, "draws": 7, "n": 100, "num_images": 5}
    certificates = (Place.of(tmp_path) / "best" / "certificates").make()
    certificates.write("summary.json", json.dumps(summary).encode())
    (tmp_path / "best.yaml").write_text("{}")
    with tracked("wandb", Watch(), Place.of(tmp_path), {}) as watch:
        watch.trial(SimpleNamespace(kind="done", best=0.25, finished=3))
    assert told == [
        ({"best_projected_acr": 0.25}, 3), ({"acr": 0.5, "draws": 7.0}, None), ["best.yaml"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_before_anything_begins(name, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'rsray\[{name}\]'"):
        rsray.train(**SMALL, track=name, progress=False)
