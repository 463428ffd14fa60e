"""Opening RUN folders and checkpoints: what is found, and what is said when it is not."""

import hashlib
import json
from types import SimpleNamespace

import pytest
import torch

from rsray import models
from rsray.certification.source import open_source, training_of
from rsray.config import TrainConfig
from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.yaml_files import to_yaml

SPLIT = SimpleNamespace(image_shape=(1, 8, 8), num_classes=10)


@pytest.fixture
def lenet():
    torch.manual_seed(0)
    return models.build("lenet", image_shape=(1, 8, 8), num_classes=10)


@pytest.fixture
def run(tmp_path, lenet):
    """A finished RUN."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = TrainConfig.make(
        {"dataset": "digits", "sigma": 0.5, "epochs": 1, "objective": "gaussian"}
    )
    (folder / "run.yaml").write_bytes(
        to_yaml({**config.model_dump(mode="json"), "versions": {"torch": "2"}})
    )
    models.save_weights(lenet, folder / "model.safetensors")
    return folder


@pytest.fixture
def images():
    return torch.rand((5, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def same(model, other, images):
    with torch.no_grad():
        return torch.equal(model(images), other.eval()(images))


def test_a_run(run, lenet, images):
    source = open_source(str(run))
    assert (source.model, source.dataset, source.sigma) == ("lenet", "digits", 0.5)
    assert source.digest == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert not source.published and source.data_root is None
    model = source.build(SPLIT)
    assert not model.training and same(model, lenet, images)


def test_a_run_by_uri(run):
    assert open_source(f"file://{run}").digest == open_source(str(run)).digest


def test_the_training_of_a_run(run):
    config = training_of(Place.of(run))
    assert (config.dataset, config.sigma, config.objective) == ("digits", 0.5, "gaussian")


def test_what_the_user_says_comes_first(run):
    source = open_source(str(run)).given(sigma=0.25, dataset=None, data_root="/data")
    assert (source.sigma, source.dataset, source.data_root) == (0.25, "digits", "/data")


def test_nothing_there(tmp_path):
    with pytest.raises(
        UserError, match="nowhere does not exist: expected a RUN folder or a checkpoint"
    ):
        open_source(str(tmp_path / "nowhere"))


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="is no RUN folder: it has no run.yaml"):
        open_source(str(tmp_path))


def test_an_unfinished_run_says_how_to_go_on(run):
    (run / "model.safetensors").unlink()
    with pytest.raises(UserError, match="training is not finished; run the same rsray train"):
        open_source(str(run))


@pytest.mark.parametrize("text", ["{{{", "- 1\n- 2", ""])
def test_an_unreadable_run_yaml(run, text):
    (run / "run.yaml").write_text(text)
    with pytest.raises(UserError, match="run.yaml (is not valid YAML|does not hold settings)"):
        open_source(str(run))


@pytest.mark.parametrize("garbage", [b"", b"garbage" * 100, b"cut"])
def test_damaged_weights(run, lenet, garbage):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000] if garbage == b"cut" else garbage)
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        open_source(str(run)).build(SPLIT)
    with pytest.raises(UserError, match="model.safetensors is damaged or not a safetensors file"):
        open_source(str(path))


def test_weights_of_another_network(run):
    models.save_weights(
        models.build("resnet20", image_shape=(1, 8, 8), num_classes=10), run / "model.safetensors"
    )
    with pytest.raises(UserError, match="does not fit model LeNet"):
        open_source(str(run)).build(SPLIT)
    with pytest.raises(UserError, match="does not fit"):
        open_source(str(run)).given(model="resnet20").build(
            SimpleNamespace(image_shape=(1, 8, 8), num_classes=7)
        )


def test_a_safetensors_file_may_describe_itself(tmp_path, lenet, images):
    record = {"model": "lenet", "dataset": "digits", "sigma": 0.12}
    models.save_weights(lenet, tmp_path / "a.safetensors", {"rsray": json.dumps(record)})
    source = open_source(str(tmp_path / "a.safetensors"))
    assert (source.model, source.dataset, source.sigma) == ("lenet", "digits", 0.12)
    assert same(source.build(SPLIT), lenet, images)


def test_a_bare_safetensors_file_needs_its_architecture(tmp_path, lenet, images):
    models.save_weights(lenet, tmp_path / "a.safetensors")
    source = open_source(str(tmp_path / "a.safetensors"))
    assert source.model is None and source.sigma is None
    with pytest.raises(UserError, match="does not say its architecture: give --model"):
        source.build(SPLIT)
    assert same(source.given(model="lenet").build(SPLIT), lenet, images)


def test_a_torch_checkpoint(tmp_path, lenet, images):
    torch.save({"state_dict": lenet.state_dict()}, tmp_path / "checkpoint.pth.tar")
    source = open_source(str(tmp_path / "checkpoint.pth.tar"))
    assert source.published and source.model is None
    assert same(source.given(model="lenet").build(SPLIT), lenet, images)


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_a_torch_checkpoint_that_holds_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "a.pth")
    source = open_source(str(tmp_path / "a.pth")).given(model="lenet")
    with pytest.raises(UserError, match=r"a\.pth"):
        source.build(SPLIT)
    assert "ran" not in capsys.readouterr().out


def test_a_torch_checkpoint_that_is_garbage(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"garbage" * 100)
    with pytest.raises(UserError, match=r"a\.pth"):
        open_source(str(tmp_path / "a.pth")).given(model="lenet").build(SPLIT)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "notes.txt").write_text("...")
    with pytest.raises(
        UserError, match=r"notes.txt is no checkpoint: expected .*\.safetensors.*\.pth"
    ):
        open_source(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize("text", ["{garbage", "[1]"])
def test_safetensors_metadata_that_is_no_record(tmp_path, lenet, text):
    models.save_weights(lenet, tmp_path / "a.safetensors", {"rsray": text})
    with pytest.raises(UserError, match=r"a\.safetensors"):
        open_source(str(tmp_path / "a.safetensors"))
