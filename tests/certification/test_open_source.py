"""Opening RUN folders and checkpoints: what is found, and what is said when it is not."""

import hashlib
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from saved_weights import save_weights

from rsray import models
from rsray.certification.networks.opening import open_source
from rsray.certification.request import open_classifier
from rsray.config import TrainConfig
from rsray.data import DATASETS, open_split
from rsray.errors import UserError
from rsray.models import Normalisation
from rsray.storage.yaml_files import to_yaml
from rsray.training.run_folder.run import check_settings


class Split(SimpleNamespace):
    """Random images whose labels are what `answers` says of them."""

    def __len__(self):
        return 40

    def images(self, indices):
        shape = (40, *self.image_shape)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return pixels[np.asarray(indices)]

    @property
    def labels(self):
        images = torch.from_numpy(self.images(range(40))) / 255
        with torch.no_grad():
            return self.answers(images).argmax(1).numpy()


SPLIT = SimpleNamespace(image_shape=(1, 8, 8), num_classes=10)
COLOUR = (3, 16, 16)


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
    save_weights(lenet, folder / "model.safetensors")
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
    save_weights(
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
    save_weights(lenet, tmp_path / "a.safetensors", {"rsray": json.dumps(record)})
    source = open_source(str(tmp_path / "a.safetensors"))
    assert (source.model, source.dataset, source.sigma) == ("lenet", "digits", 0.12)
    assert same(source.build(SPLIT), lenet, images)


def test_a_bare_safetensors_file_needs_its_architecture(tmp_path, lenet, images):
    save_weights(lenet, tmp_path / "a.safetensors")
    source = open_source(str(tmp_path / "a.safetensors"))
    assert source.model is None and source.sigma is None
    with pytest.raises(UserError, match="does not say its architecture: give --model"):
        source.build(SPLIT)
    stated = source.given(model="lenet", normalise="none")
    assert same(stated.build(SPLIT), lenet, images)


def test_a_torch_checkpoint(tmp_path, lenet, images):
    torch.save({"state_dict": lenet.state_dict()}, tmp_path / "checkpoint.pth.tar")
    source = open_source(str(tmp_path / "checkpoint.pth.tar"))
    assert source.published and source.model is None
    stated = source.given(model="lenet", normalise="none")
    assert same(stated.build(SPLIT), lenet, images)


@pytest.fixture
def colour():
    """A network of colour images behind the layer that CIFAR-10's have."""
    torch.manual_seed(0)
    network = models.build("lenet", image_shape=COLOUR, num_classes=10)
    with torch.no_grad():  # classes that differ from image to image
        noise = torch.rand((200, *COLOUR), generator=torch.Generator().manual_seed(1))
        network.fc2.bias.sub_(layer("centre").before(network, 3)(noise).mean(0))
    return network


def saved(tmp_path, network, layout):
    """Write a checkpoint and return it as certify opens it."""
    state = dict(network.state_dict())
    if layout == "safetensors":
        save_weights(network, tmp_path / "a.safetensors")
        return open_source(str(tmp_path / "a.safetensors")).given(model="lenet", dataset="cifar10")
    contents = {
        "plain": state,
        "behind a layer": {"state_dict": {f"1.{key}": value for key, value in state.items()}},
        "macer": {"net": state, "epoch": 1},
        "statistics": {
            "0.means": torch.tensor([0.4914, 0.4822, 0.4465]),
            "0.sds": torch.tensor([0.2023, 0.1994, 0.2010]),
            **{f"1.{key}": value for key, value in state.items()},
        },
    }
    torch.save(contents[layout], tmp_path / "a.ckpt")
    return open_source(str(tmp_path / "a.ckpt")).given(model="lenet", dataset="cifar10")


def layer(choice):
    return Normalisation.stated(choice, DATASETS["cifar10"].statistics)


@pytest.mark.parametrize("layout", ["plain", "behind a layer", "safetensors"])
@pytest.mark.parametrize(
    "choice", ["dataset", "imagenet", "centre", "none", "0.5,0.4,0.3/0.3,0.2,1"]
)
def test_what_the_user_states_is_applied(tmp_path, colour, layout, choice):
    split = SimpleNamespace(image_shape=COLOUR, num_classes=10)
    source = saved(tmp_path, colour, layout).given(normalise=choice).settled(split)
    images = torch.rand(4, *COLOUR)
    assert same(source.build(split), layer(choice).before(colour, 3), images)
    assert source.normalisation.is_as(layer(choice))
    again = pickle.loads(pickle.dumps(source))  # as it goes to the actors
    assert same(again.build(split), layer(choice).before(colour, 3), images)


@pytest.mark.parametrize("layout", ["plain", "behind a layer", "safetensors"])
@pytest.mark.parametrize("truth", ["dataset", "centre", "none"])
def test_a_file_that_does_not_say_its_normalisation_is_refused_with_a_hint(
    tmp_path, colour, layout, truth
):
    answers = layer(truth).before(colour, 3)
    split = Split(image_shape=COLOUR, num_classes=10, answers=answers)
    with pytest.raises(
        UserError, match=r"does not say .*give --normalise dataset: .*centre: .*none: .*MEAN/STD"
    ) as caught:
        saved(tmp_path, colour, layout).settled(split)
    assert f"{truth}: 100%" in str(caught.value) and "\n" not in str(caught.value)
    assert sum(f"{name}: 100%" in str(caught.value) for name in ("dataset", "centre", "none")) == 1


def test_without_known_statistics_there_is_no_layer_to_choose(tmp_path, colour):
    split = Split(image_shape=COLOUR, num_classes=10, answers=colour)
    source = saved(tmp_path, colour, "plain").given(dataset="parquet")
    with pytest.raises(UserError, match="give --normalise imagenet: .*none: ") as caught:
        source.settled(split)
    assert "dataset:" not in str(caught.value)
    with pytest.raises(UserError, match="statistics of this data set are not known"):
        source.given(normalise="dataset").settled(split)


def test_statistics_in_the_file_are_applied_and_not_contradicted(tmp_path, colour):
    split, images = SimpleNamespace(image_shape=COLOUR, num_classes=10), torch.rand(4, *COLOUR)
    source = saved(tmp_path, colour, "statistics")
    for known in ({}, {"normalise": "dataset"}, {"dataset": "svhn"}):
        assert same(source.given(**known).build(split), layer("dataset").before(colour, 3), images)
    with pytest.raises(UserError, match="but normalise centre is 0.4914,0.4822,0.4465/1,1,1"):
        source.given(normalise="centre").build(split)


def test_macers_layout_says_none_and_the_user_may_know_better(tmp_path, colour):
    split = Split(image_shape=COLOUR, num_classes=10, answers=colour)
    images = torch.rand(4, *COLOUR)
    source = saved(tmp_path, colour, "macer")
    assert same(source.build(split), colour, images)
    stated = source.given(normalise="dataset").build(split)
    assert same(stated, layer("dataset").before(colour, 3), images)
    # Somebody else's network in the same layout: what it wants shows in its answers.
    split.answers = layer("dataset").before(colour, 3)
    with pytest.raises(UserError, match=r"does not say .*dataset: 100%.*none: \d+%"):
        source.settled(split)
    source.given(normalise="none").settled(split)


def test_a_run_says_its_normalisation(run, lenet):
    settled = open_source(str(run)).settled(SPLIT)
    assert settled.normalisation.text == "none"
    with pytest.raises(UserError, match="normalises images with none, but normalise 0.5/0.5 is"):
        open_source(str(run)).given(normalise="0.5/0.5").settled(SPLIT)


FACTORY = """
from rsray.models.lenet import LeNet
from torch import nn
def make(image_shape, num_classes, scale=1):
    network = LeNet(image_shape, num_classes)
    network.scale = scale
    return network
"""


def test_nothing_is_added_to_a_users_own_factory(tmp_path, colour, monkeypatch):
    (tmp_path / "own_networks.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    split, images = (
        Split(image_shape=COLOUR, num_classes=10, answers=colour),
        torch.rand(4, *COLOUR),
    )
    known = {"model": "own_networks:make", "model_args": {"scale": 3}}
    source = saved(tmp_path, colour, "plain").given(**known).settled(split)
    model = source.build(split)
    assert same(model, colour, images) and model.scale == 3
    assert "factory" in str(source.normalisation)
    with pytest.raises(UserError, match="which is code: if you trust it, name it too"):
        source.given(normalise="centre")
    stated = source.given(**known, normalise="centre", normalisation=layer("centre"))
    assert same(stated.build(split), layer("centre").before(colour, 3), images)
    with pytest.raises(UserError, match="which layer stood before its network"):
        saved(tmp_path, colour, "behind a layer").given(**known).settled(split)


def test_a_users_factory_whose_network_is_not_all_in_its_weights(tmp_path, monkeypatch):
    """Each counting process had another one; nobody saw it before an audit."""
    (tmp_path / "drawn_networks.py").write_text(DRAWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    name, split = "drawn_networks:Drawn", open_split("digits", "test")
    weights = models.build(name, image_shape=(1, 8, 8), num_classes=10).state_dict()
    torch.save(weights, tmp_path / "drawn.pt")
    source = open_source(str(tmp_path / "drawn.pt")).given(model=name, sigma=0.25)
    with pytest.raises(UserError, match="Drawn' is another network each time"):
        source.settled(split)
    config = TrainConfig(dataset="digits", model=name, objective="gaussian", sigma=0.25)
    with pytest.raises(UserError, match="Drawn' is another network each time"):
        check_settings(config, open_split("digits", "train"), torch.device("cpu"))


DRAWN = """
import torch
from torch import nn

class Drawn(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.mask, self.layer = torch.rand(64), nn.Linear(64, num_classes)
    def forward(self, x):
        return self.layer(self.mask * x.flatten(1))
"""


def test_a_users_factory_whose_images_were_normalised_elsewhere(tmp_path, colour, monkeypatch):
    """A network that answers far better behind a layer was trained behind one: it is asked."""
    (tmp_path / "bare_networks.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = {"model": "bare_networks:make"}
    answers = layer("dataset").before(colour, 3)
    split = Split(image_shape=COLOUR, num_classes=10, answers=answers)
    for layout in ("plain", "macer", "safetensors"):
        source = saved(tmp_path, colour, layout).given(**known)
        with pytest.raises(UserError, match=r"does not say .*dataset: 100%.*none: \d+%"):
            source.settled(split)
        for choice in ("none", "dataset"):
            stated = source.given(**known, normalise=choice).settled(split)
            assert stated.normalisation.is_as(layer(choice))
    (tmp_path / "strict_networks.py").write_text(
        FACTORY + "class Strict(LeNet):\n"
        "    def forward(self, x):\n"
        "        assert x.max() < 1.5 or len(x) == 1\n"
        "        return super().forward(x)\n"
    )
    split.answers = colour
    strict = saved(tmp_path, colour, "plain").given(model="strict_networks:Strict")
    assert "factory" in str(strict.settled(split).normalisation)


def test_arguments_of_a_factory_come_from_the_command_line_as_text(tmp_path, monkeypatch):
    (tmp_path / "argued_networks.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = models.build("lenet", image_shape=(1, 8, 8), num_classes=10)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    given = {"dataset": "digits", "sigma": 0.25, "model": "argued_networks:make"}
    for arguments in (["scale=3"], ("scale=3",), {"scale": 3}):
        asked = {**given, "model_args": arguments}
        source, split = open_classifier(str(tmp_path / "weights.pth"), asked, download=False)
        assert source.build(split).scale == 3 and source.model_args == {"scale": 3}


def test_a_librarys_network_does_not_normalise_itself(tmp_path):
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=10).state_dict(), tmp_path / "weights.pth")
    known = {"model": "torchvision.models:resnet18", "dataset": "cifar10", "sigma": 0.25}
    source = open_source(str(tmp_path / "weights.pth")).given(**known)
    split = Split(image_shape=COLOUR, num_classes=10, answers=resnet18(num_classes=10))
    with pytest.raises(
        UserError, match=r"does not say how it normalises: give --normalise dataset"
    ):
        source.settled(split)
    stated = source.given(**known, normalise="none").settled(split)
    assert stated.normalisation.text == "none"


def test_the_architecture_that_a_checkpoint_names(tmp_path, lenet):
    for arch, message in (
        ("cifar_resnet20", None),
        ("evil.module:run", "is none of"),
        (None, "--model"),
    ):
        torch.save({"arch": arch, "state_dict": lenet.state_dict()}, tmp_path / "a.bin")
        source = open_source(str(tmp_path / "a.bin")).given(dataset="digits", sigma=0.5)
        if message is None:
            assert source.complete().model == "resnet20"
            assert source.given(model="lenet").complete().model == "lenet"
        else:
            with pytest.raises(UserError, match=message):
                source.complete()


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
    save_weights(lenet, tmp_path / "a.safetensors", {"rsray": text})
    with pytest.raises(UserError, match=r"a\.safetensors"):
        open_source(str(tmp_path / "a.safetensors"))
