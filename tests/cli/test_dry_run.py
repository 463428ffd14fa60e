"""--dry-run says what would run where: nothing is started, written or fetched."""

import shutil

import pytest
import torch
import yaml
from cluster.edited import CLUSTERS, edit
from command_line import command

from rsray.config import PlanConfig
from rsray.distributed import dry_run
from rsray.storage import Place
from rsray.training.run_folder.checkpoint import Position, save_checkpoint

SMALL = "--objective gaussian --epochs 2 --limit 64 --batch-size 16"
LINES = {
    "train": f"train --dataset digits {SMALL}",
    "certify": "certify {run} --n 2000 --limit 5",
    "tune": f"tune --dataset digits {SMALL} --trials 3 --trial-epochs 2 --search lr=log(0.01,0.1) --n 1000",
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(dry_run, "MEASURED", PlanConfig(seconds=0.05))


# No progress.
NEXT = "next: the same command without --dry-run\n"


def dry(line, *more):
    """Return {name: text} of what a dry run says; it leaves nothing behind and no progress."""
    before = sorted(Place.of(".").local_path.rglob("*"))
    result = command(*line.split(), "--dry-run", *more)
    assert result.status == 0 and result.err == NEXT, result.err
    assert sorted(Place.of(".").local_path.rglob("*")) == before
    return dict(
        (row.split("  ", 1)[0], row.split("  ", 1)[1].strip())
        for row in result.out.splitlines()
        if "  " in row
    )


def test_a_training_run():
    said = dry(LINES["train"])
    assert said["where"].startswith("this process, on ")
    assert said["steps"] == "4 of 16 images an epoch, 8 in 2 epochs"
    assert said["draws"] == "1 of an image in a step, 128 in all"
    assert said["checkpoints"] == "after each epoch and every 10 minutes"
    assert said["state"] == "a new run" and "model.safetensors" in said["files"]
    assert "noisy images/s" in said["time"] and "about" in said["time"]
    held_out = dry(LINES["train"], "--set", "validation=0.25", "--checkpoint-minutes", "0")
    assert held_out["steps"].startswith("3 of 16") and held_out["checkpoints"] == "after each epoch"


def test_what_the_run_warns_of_is_said_once(caplog):
    dry("train --dataset digits --epochs 1 --limit 64 --batch-size 16")
    assert caplog.text.count("waits for the first learning-rate drop") == 1


def test_a_run_on_a_cluster_that_is_not_asked():
    said = dry(LINES["train"], "--address", "10.0.0.9:6379", "--workers", "2-8")
    expected = "workers of Ray Train: 2-8, a GPU each where there are any, on Ray at 10.0.0.9:6379"
    assert said["where"] == expected and said["precision"] == "bf16 where the workers compute it"
    assert said["time"].startswith("rsray plan on a machine like the cluster's")
    said = dry(LINES["train"], "--cluster", "http://127.0.0.1:8265", "--gpus-per-worker", "1")
    assert "1 GPUs each, on Ray at http://127.0.0.1:8265" in said["where"]


@pytest.mark.parametrize("name", ["train", "tune", "certify"])
def test_the_file_of_a_cluster_is_looked_at(name, tmp_path):
    line, file = LINES[name].format(run="nowhere"), edit(CLUSTERS / "aws-gpu.yaml", tmp_path)
    for given, words in ((tmp_path / "no.yaml", "no.yaml"), (CLUSTERS / "aws-gpu.yaml", "EDIT")):
        result = command(*line.split(), "--dry-run", "--cluster", given)
        assert result.status == 2 and words in result.err and result.err.count("\n") == 1
    if name == "train":
        assert str(file) in dry(line, "--cluster", str(file))["where"]


def test_a_run_that_goes_on(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    words = ["--config", str(tmp_path / "run" / "run.yaml"), "--out", str(tmp_path / "run")]
    finished = dry("train", *words)
    assert (finished["state"], finished["time"]) == ("finished: nothing to do", "none")
    (tmp_path / "run" / "model.safetensors").unlink()
    position = Position(0, 3)
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()
    save_checkpoint(Place.of(tmp_path / "run"), position, {"value": torch.tensor(0)})
    assert dry("train", *words)["state"] == "goes on after 0 epochs and 3 steps"
    other = command(*LINES["train"].split(), "--dry-run", "--out", str(tmp_path / "run"))
    assert other.status == 2 and "belongs to another run" in other.err
    assert config["dataset"] == "digits"


def test_a_certification(trained):
    said = dry(LINES["certify"].format(run=trained), "--gpus-per-actor", "0", "--actors", "1")
    assert said["where"].startswith("this machine: processes 1, CPU cores of each ")
    assert said["draws"] == "100 + 2,000 of each image, 10,500 in all"
    assert said["blocks"] == "2 of 1,000 draws an image"
    assert said["state"] == "a new certification" and "counts/" in said["files"]
    assert "draws/s an actor" in said["time"]
    skipping = LINES["certify"].format(run=trained) + " --sampling skip --address 10.0.0.9:6379"
    said = dry(skipping, "--actors", "4-64", "--gpus-per-actor", "0.5")
    assert said["where"] == "actors: 4-64, 0.5 GPUs each, on Ray at 10.0.0.9:6379"
    assert said["draws"].endswith("up to 10,500 in all") and "rsray plan" in said["time"]


def test_a_certification_of_training_images_is_called_so(trained):
    line = f"certify {trained} --n 2000 --limit 5 --dry-run"
    assert "certifying 5 images of digits spread" in command(*line.split()).out
    assert (
        "certifying 5 training images of digits" in command(*line.split(), "--split", "train").out
    )


def test_a_search():
    said = dry(LINES["tune"])
    assert said["where"].startswith("a Ray of this machine: trials at a time ")
    assert said["trials"].startswith("3, each up to 2 epochs of 16 images")
    assert said["state"] == "a new search" and "best/certificates/" in said["files"]
    assert "3 trials of up to" in said["time"] and "train and certify" in said["time"]
    # The objective's draws, not those of a look at a trial.
    assert dry(LINES["tune"], "--set", "num_draws=3")["trials"].endswith(" 3 draws of each")
    both = command(*LINES["tune"].split(), "--sigma", "0.25,0.5", "--dry-run")
    assert both.status == 0 and both.out.count("a new search") == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --dataset digits --workers 65", "workers is 65"),
        ("train --dataset digits --gpus-per-worker 1", "no GPU is here"),
        ("train --dataset digits --workers 9 --gpus-per-worker 0", "needs 9 CPU cores"),
        ("train --dataset digits --workers 2 --gpus-per-worker 0.5", "needs 1 GPUs"),
        ("tune --dataset digits --gpus-per-worker 1", "room for 0"),
        ("train --dataset digits --track json", "track 'json' is unknown"),
        ("train --dataset digits --model resnet50 --set augmentation=cutout", "'cutout'"),
        ("tune --dataset digits --grid augmentation=none,cutout", "'cutout'"),
    ],
)
def test_mistakes_are_those_of_the_run(line, words, monkeypatch, tmp_path):
    monkeypatch.setattr("rsray.distributed.train.training_run.default_device", lambda: CPU)
    for module in ("dry_run", "search.forecast"):
        monkeypatch.setattr(f"rsray.distributed.{module}.usable_gpus", lambda: 0)
    monkeypatch.setattr(dry_run, "available_cpus", lambda: 8)
    monkeypatch.setattr("ray.init", lambda **given: pytest.fail("a dry run starts nothing"))
    result = command(*line.split(), "--dry-run")
    assert result.status == 2 and words in result.err and result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


CPU = torch.device("cpu")


def test_python_is_told_by_its_watch(tmp_path):
    import rsray

    told = []
    run = rsray.train(
        dataset="digits", objective="gaussian", epochs=1, limit=32, dry_run=True,
        out=tmp_path / "run", progress=rsray.Watch(say=told.append),
    )  # fmt: skip
    assert told[0].startswith("gaussian on digits") and told[1].startswith("where")
    assert run.path == str(tmp_path / "run") and not (tmp_path / "run").exists()
