"""Training on somebody's own pictures with no options but the data, in this process."""

import numpy as np
import pytest
from PIL import Image

import rsray
from rsray.data import open_split
from rsray.distributed.train import trainer
from rsray.presets import own_pictures
from rsray.progress import Watch
from rsray.storage.yaml_files import from_yaml, to_yaml
from rsray.training.request import open_training

NAMES = ("eight", "five", "four", "nine", "one", "seven")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 6 classes x 60 colour pictures of digits."""
    root = tmp_path_factory.mktemp("own") / "pictures"
    split = open_split("digits", "train")
    rng = np.random.default_rng(0)
    for name, digit in zip(NAMES, (8, 5, 4, 9, 1, 7), strict=True):
        (root / name).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(split.labels == digit)[:60]):
            tinted = split.images([index])[0, 0, :, :, None] * rng.uniform(0.4, 1, 3)
            Image.fromarray(tinted.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A run whose every setting comes from the data, but its length: a quarter of it."""
    said = []
    out = tmp_path_factory.mktemp("out") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_pictures, "LEAST_STEPS", 75)
        patch.setattr(trainer, "available_cpus", lambda: 1)
        run = rsray.train(
            dataset="imagefolder", data_root=pictures, out=out, progress=Watch(say=said.append)
        )
    return run, said


def test_it_ends_well_above_chance(trained):
    run, said = trained
    last = run.metrics["noisy_accuracy"].to_pylist()[-1]
    assert last > 2 / len(NAMES)
    assert not any(line.startswith("warning") for line in said)


def test_what_the_data_decided_is_said_and_recorded(trained):
    run, said = trained
    assert "no paper has settings for these pictures of 3x8x8 in 6 classes" in said[1]
    record = from_yaml(run.place.read("run.yaml"), "run.yaml")
    for name in ("model", "epochs", "batch_size", "lr"):
        assert f"{name} {record[name]}" in said[1]
    assert record["settings"]["deferred"] and "deferred True" in said[1]


def test_a_short_file_is_fitted_to_the_data_as_options_are(trained, pictures, tmp_path):
    run, _ = trained
    short = {"dataset": "imagefolder", "data_root": str(pictures), "objective": "macer", "lr": 0.2}
    (tmp_path / "short.yaml").write_bytes(to_yaml(short))
    asked = open_training({"epochs": 20}, config_file=tmp_path / "short.yaml")
    assert asked == open_training({**short, "epochs": 20})
    assert asked.is_fitted and asked.config.model == "resnet8" and asked.config.lr == 0.2
    whole = open_training({}, config_file=run.place / "run.yaml")
    assert not whole.is_fitted and whole.config == run.config


def test_a_file_may_name_a_preset(tmp_path):
    (tmp_path / "short.yaml").write_bytes(to_yaml({"preset": "macer-digits", "epochs": 8}))
    asked = open_training({"sigma": 0.5}, config_file=tmp_path / "short.yaml")
    same = open_training({"preset": "macer-digits", "epochs": 8, "sigma": 0.5})
    assert asked.config == same.config and not asked.is_fitted


def test_predictions_name_the_classes(trained, tmp_path):
    run, _ = trained
    table = rsray.predict(run, n=100, limit=12, out=tmp_path / "p.parquet").table.to_pylist()
    names = sorted(NAMES)
    for row in table:
        assert row["label_name"] == names[row["label"]]
        wanted = names[row["prediction"]] if row["prediction"] >= 0 else "abstain"
        assert row["prediction_name"] == wanted
    assert sum(row["label"] == row["prediction"] for row in table) >= 4
