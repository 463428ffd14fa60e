"""A training run whose RUN is on an S3 server: resumed by epochs, weights equal to a local run's."""

import json

import pytest
import torch
from safetensors.torch import load

from rsray.certification.networks.opening import open_source
from rsray.config import TrainConfig
from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.yaml_files import to_yaml
from rsray.training.loop import Training
from rsray.training.request import read_settings
from rsray.training.run_folder.run import claim_run, open_training_split

CPU = torch.device("cpu")
CONFIG = TrainConfig.make(
    {
        "dataset": "digits", "objective": "gaussian", "epochs": 4, "limit": 64, "batch_size": 32,
        "precision": "fp32", "lr": 0.05, "lr_drops": (2,),
    }
)  # fmt: skip


@pytest.fixture
def store(bucket):
    return bucket


def train(where, stop_after=None):
    run, split, epochs = Place.of(where), open_training_split(CONFIG), []
    claim_run(run, CONFIG, split, CPU)

    def on_epoch(row):
        epochs.append(row["epoch"])
        if row["epoch"] + 1 == stop_after:
            raise KeyboardInterrupt

    with run.locked():
        try:
            Training(CONFIG, run, CPU).run_epochs(on_epoch)
        except KeyboardInterrupt:
            pass
    return epochs


def test_an_interrupted_run_continues_with_the_next_epoch(store, tmp_path):
    where = store.uri("runs/a")
    assert train(where, stop_after=2) == [0, 1]
    assert "runs/a/model.safetensors" not in store.keys()
    with pytest.raises(UserError, match="its training is not finished"):
        open_source(where)
    assert train(where) == [2, 3]
    assert train(tmp_path / "local") == [0, 1, 2, 3]
    mine = load(store.get("runs/a/model.safetensors"))
    local = load((tmp_path / "local/model.safetensors").read_bytes())
    assert all(torch.equal(mine[key], local[key]) for key in local)
    lines = [json.loads(line) for line in store.get("runs/a/metrics.jsonl").splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    names = [key.rpartition("/")[2] for key in store.keys("runs/a/checkpoints/")]
    assert names == ["epoch-00003.pt", "epoch-00004.pt"]
    source = open_source(where)
    assert (source.dataset, source.sigma) == ("digits", CONFIG.sigma)
    by_file = open_source(store.uri("runs/a/model.safetensors"))
    assert by_file.digest == source.digest and by_file.dataset == "digits"


def test_a_checkpoint_that_was_cut_off_is_named(store):
    train(store.uri("run"), stop_after=2)
    key = store.keys("run/checkpoints/")[-1]
    store.put(key, store.get(key)[:-50])
    with pytest.raises(UserError, match=r"epoch-00002.pt is damaged; delete it"):
        train(store.uri("run"))


def test_the_folder_of_another_run_is_refused(store):
    run, split = Place.of(store.uri("run")), open_training_split(CONFIG)
    assert claim_run(run, CONFIG, split, CPU) is False
    other = CONFIG.model_copy(update={"sigma": 0.5})
    with pytest.raises(
        UserError, match="run belongs to another run: sigma is 0.5 now but was 0.25"
    ):
        claim_run(run, other, split, CPU)
    store.put("notes/readme.txt", b"mine")
    with pytest.raises(UserError, match="is not empty and is no run"):
        claim_run(Place.of(store.uri("notes")), CONFIG, split, CPU)


def test_settings_are_read_from_s3(store):
    store.put("best.yaml", to_yaml(CONFIG.model_dump(mode="json")))
    assert read_settings(store.uri("best.yaml"))["lr_drops"] == [2]
