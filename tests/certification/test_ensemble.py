"""An ensemble is one classifier: the mean of its members' logits, certified, audited, continued."""

import hashlib
import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from rsray import api, models
from rsray.certification.engine.evaluation import EvaluatedNetwork, Evaluation
from rsray.certification.engine.fold import _Float32Linear, fold, with_float32_head
from rsray.certification.networks.opening import open_source
from rsray.config import TrainConfig
from rsray.errors import UserError
from rsray.models import weights_bytes
from rsray.models.mean_logits import MeanLogits
from rsray.storage.yaml_files import from_yaml, to_yaml

DIGITS = SimpleNamespace(image_shape=(1, 8, 8), num_classes=10)
COLOUR = SimpleNamespace(image_shape=(3, 16, 16), num_classes=10)


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a finished RUN of random weights and returns its path."""

    def make(name, model="lenet", seed=0, **record):
        torch.manual_seed(seed)
        network = models.build(model, image_shape=DIGITS.image_shape, num_classes=10)
        settings = {"dataset": "digits", "sigma": 0.5, "objective": "gaussian", "model": model}
        config = TrainConfig.make(settings).model_dump(mode="json")
        known = {"classes": [str(i) for i in range(10)], "image_shape": [1, 8, 8]}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.yaml").write_bytes(to_yaml({**config, **known, **record}))
        (folder / "model.safetensors").write_bytes(weights_bytes(network))
        return str(folder)

    return make


@pytest.fixture
def pair(make_run):
    return make_run("a"), make_run("b", model="resnet8", seed=1)


def joined(*paths):
    return "ensemble:" + ",".join(paths)


@torch.no_grad()
def test_logits_are_the_mean_of_the_members(pair, make_run):
    images = torch.rand(5, *DIGITS.image_shape)
    each = [open_source(path).build(DIGITS)(images) for path in pair]
    whole = open_source(joined(*pair)).complete().build(DIGITS)
    assert not whole.training
    torch.testing.assert_close(whole(images), (each[0] + each[1]) / 2)
    paths = (*pair, make_run("c", seed=2))
    each.append(open_source(paths[2]).build(DIGITS)(images))
    three = open_source(joined(*paths)).build(DIGITS)
    torch.testing.assert_close(three(images), sum(each) / 3)


@torch.no_grad()
@pytest.mark.parametrize("means", [(0.5, 0.5), (0.5, 0.4)])
def test_each_member_has_its_own_normalisation(tmp_path, means):
    """Where all have the same it is applied once, before the whole."""
    for i, mean in enumerate(means):
        torch.manual_seed(i)
        network = models.build("lenet", image_shape=COLOUR.image_shape, num_classes=10)
        state = {f"1.{key}": value for key, value in network.state_dict().items()}
        layer = {"0.means": torch.full((3,), mean), "0.sds": torch.full((3,), 0.25)}
        torch.save({**layer, **state}, tmp_path / f"{i}.pth")
    paths = [str(tmp_path / f"{i}.pth") for i in (0, 1)]
    known = {"model": "lenet", "dataset": "cifar10", "sigma": 0.5}
    source = open_source(joined(*paths)).given(**known).complete().settled(COLOUR)
    images = torch.rand(4, *COLOUR.image_shape)
    each = [open_source(path).given(**known).build(COLOUR)(images) for path in paths]
    assert not torch.allclose(each[0], each[1])
    whole = source.build(COLOUR)
    torch.testing.assert_close(whole(images), (each[0] + each[1]) / 2)
    text = source.normalisation.text
    assert (
        text.split(";")
        == ["0.5,0.5,0.5/0.25,0.25,0.25", "0.4,0.4,0.4/0.25,0.25,0.25"][: len({*means})]
    )
    assert (fold(whole, COLOUR.image_shape).mean_C is not None) == (len({*means}) == 1)
    again = open_source(joined(*paths)).given(**known, normalise=text).settled(COLOUR)
    assert again.identity() == source.identity(), "what is recorded states it once more"


def test_what_is_recorded_names_all_members(pair, make_run):
    source = open_source(joined(*pair)).complete().settled(DIGITS)
    assert source.identity()["model"] == "lenet+resnet8"
    digests = {open_source(joined(*paths)).digest for paths in (pair, pair[::-1])}
    assert len(digests) == 2 and open_source(pair[0]).digest not in digests
    other = make_run("c", seed=2)
    assert open_source(joined(other, pair[1])).digest not in digests
    assert open_source(joined(*pair)).digest == source.digest


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"dataset": "mnist"}, "same dataset: .* with digits, .* with mnist"),
        ({"image_shape": [1, 28, 28]}, "same image_shape: .* with 1, 8, 8, .* with 1, 28, 28"),
        ({"classes": list("abcdefghij")}, "same classes: .* with 0, 1, .* with a, b"),
        ({"classes": list("9876543210")}, "same classes"),
        ({"label_column": "fine"}, "same label_column: .*c was trained with fine, .*a without one"),
    ],
)
def test_members_that_do_not_go_together(pair, make_run, record, words):
    other = make_run("c", **record)
    with pytest.raises(UserError, match=words):
        open_source(joined(pair[0], other))


def test_members_that_read_their_data_otherwise(make_run):
    told = {"label_column": "fine", "channels": 1}
    one, two = make_run("one", **told), make_run("two", seed=1, label_column="coarse")
    with pytest.raises(UserError, match="same label_column: .* with fine, .* with coarse"):
        open_source(joined(one, two))
    same = make_run("same", seed=2, label_column="fine")
    found = open_source(joined(same, one))
    assert (found.label_column, found.channels, found.image_size) == ("fine", 1, None)


def test_one_network_is_no_ensemble(pair, make_run):
    for paths in (pair[:1] * 2, (*pair, pair[0]), (pair[0], make_run("copy"))):
        with pytest.raises(UserError, match="names each network once: .* hold the same weights"):
            open_source(joined(*paths))


def file_of(path, seed=0, **beside):
    """Write the weights of a LeNet for digits as other code keeps them; returns the path."""
    torch.manual_seed(seed)
    network = models.build("lenet", image_shape=DIGITS.image_shape, num_classes=10)
    torch.save({"state_dict": network.state_dict(), **beside}, path)
    return str(path)


def test_files_that_name_their_classes_in_another_order(make_run, tmp_path, caplog):
    """Each would number the images' labels for itself, and the last would win."""
    order = [str(i) for i in range(10)]
    a = file_of(tmp_path / "a.pth", class_to_idx={name: i for i, name in enumerate(order)})
    b = file_of(tmp_path / "b.pth", class_to_idx={name: 9 - i for i, name in enumerate(order)})
    run = make_run("run")
    for pair in ((a, b), (run, b), (b, run)):
        with pytest.raises(UserError, match="same classes: .* with (0, 1|9, 8), "):
            open_source(joined(*pair))
    assert open_source(joined(run, a)) and not caplog.records
    silent = file_of(tmp_path / "silent.pth")
    assert open_source(joined(silent, b))
    assert f"{silent} does not name its classes: taken to be those of {b}" in caplog.text


def test_an_ensemble_that_is_none(pair, tmp_path):
    for where in ("ensemble:", f"ensemble:{pair[0]}", f"ensemble:{pair[0]},"):
        with pytest.raises(UserError, match="at least two members"):
            open_source(where)
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_source(joined(pair[0], str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="is no RUN: rsray export takes the folder"):
        api.export(joined(*pair), out=tmp_path / "out")
    with pytest.raises(UserError, match="'lenet.lenet.lenet' names 3, .* has 2"):
        open_source(joined(*pair)).given(model="lenet+lenet+lenet")


def test_members_of_different_sigma_are_certified_at_the_one_that_is_given(pair, make_run):
    other = make_run("c", seed=2, sigma=0.25)
    source = open_source(joined(pair[0], other))
    with pytest.raises(UserError, match="its members say sigma 0.5, 0.25: give --sigma"):
        source.complete()
    assert source.given(sigma=0.25).complete().sigma == 0.25


def test_a_factory_of_a_member_is_named_by_the_user_alone(pair, make_run, tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text("from rsray.models.lenet import LeNet as make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    other = make_run("c")
    record = from_yaml((tmp_path / "c/run.yaml").read_bytes(), "run.yaml")
    (tmp_path / "c/run.yaml").write_bytes(to_yaml({**record, "model": "my_nets:make"}))
    source = open_source(joined(pair[1], other))
    with pytest.raises(UserError, match="which is code: .*--model resnet8.my_nets:make"):
        source.given()
    assert source.given(model="resnet8+my_nets:make").complete().settled(DIGITS).model_args == {}


@torch.no_grad()
def test_the_engine_keeps_every_head_in_float32():
    torch.manual_seed(0)
    members = [
        models.build(name, image_shape=DIGITS.image_shape, num_classes=10).eval()
        for name in ("lenet", "resnet8", "lenet")
    ]
    whole = MeanLogits(members).eval()
    images = torch.rand(8, *DIGITS.image_shape)
    for network in (whole, MeanLogits(members[::2]).eval()):
        half = with_float32_head(fold(network, DIGITS.image_shape).network, torch.bfloat16)
        heads = [each for each in half.modules() if isinstance(each, _Float32Linear)]
        assert len(heads) == len(network.members)
        logits = half(images.bfloat16())
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, network(images), atol=0.05, rtol=0.05)
    evaluated = EvaluatedNetwork(
        whole, Evaluation("cpu", "fp32", "channels_last", 8), DIGITS.image_shape
    )
    assert not any(isinstance(each, nn.BatchNorm2d) for each in evaluated.network.modules())
    evaluated.buffer_BCHW.copy_(images)
    torch.testing.assert_close(evaluated.logits(), whole(images), atol=1e-4, rtol=1e-4)


def test_certified_verified_audited_and_continued(pair, tmp_path):
    source, cert = joined(*pair), tmp_path / "cert"
    settings = {"n": 200, "n0": 10, "limit": 4, "precision": "fp32", "progress": False}
    made = api.certify(source, **settings, out=cert)
    record = from_yaml((cert / "certify.yaml").read_bytes(), "certify.yaml")
    assert record["source"] == source and record["model"] == "lenet+resnet8"
    whole = hashlib.sha256(
        "\n".join(["ensemble", *(open_source(path).digest for path in pair)]).encode()
    ).hexdigest()
    assert made.summary["model_digest"] == record["model_digest"] == whole
    assert api.verify(cert).is_equal
    audit = api.audit(cert, source, blocks=4, progress=False)
    assert audit.is_passed and audit.num_exact == 4
    with pytest.raises(UserError, match="is not the network that .* certifies"):
        api.audit(cert, pair[0], blocks=4, progress=False)
    before = pq.read_table(cert / "certificates.parquet")
    (cert / "certificates.parquet").unlink()
    assert api.certify(source, **settings, out=cert).table.equals(before)
    with pytest.raises(UserError, match="model_digest is"):
        api.certify(joined(*pair[::-1]), **settings, out=cert)


@pytest.mark.slow
def test_the_same_ensemble_as_a_model_and_from_a_file(pair, tmp_path):
    source, settings = joined(*pair), {"n": 200, "n0": 10, "limit": 4, "progress": False}
    before = api.certify(source, **settings, out=tmp_path / "cert").table
    same = api.certify(pair[0], model=source, **settings, out=tmp_path / "y")
    assert same.table.equals(before)
    cert = tmp_path / "cert"
    again = api.certify(source, config=cert / "certify.yaml", progress=False, out=tmp_path / "z")
    assert again.table.equals(before)


def test_predicted_and_planned(pair):
    source = joined(*pair)
    with pytest.raises(UserError, match="nowhere is none of its members"):
        api.predict("nowhere", model=source)
    made = api.predict(source, n=50, limit=3, precision="fp32")
    assert len(made.table) == 3
    plan = api.plan(source, n=200, limit=3, seconds=0.1, precision="fp32")
    assert plan.request.config.model == "lenet+resnet8"


def test_a_shipment_carries_every_member(pair, tmp_path):
    from rsray.cluster.packaging import copy_all
    from rsray_cli.cluster import typed_line

    for words in (["certify", joined(*pair)], ["certify", pair[0], f"--model={joined(*pair)}"]):
        line = typed_line(words)
        folder = copy_all(line, tmp_path / f"package{len(words)}", print)
        word = line.there()[-1]
        assert word.startswith("ensemble:inputs/") and line.modules == ()
        for path in word.removeprefix("ensemble:").split(","):
            assert (folder / path / "model.safetensors").is_file()
    remote = ["certify", "ensemble:s3://b/1,s3://b/2"]
    assert typed_line(remote).there() == remote
    with pytest.raises(UserError, match="1 of 2 members are on this machine"):
        typed_line(["certify", joined(pair[0], "s3://b/2")])


def test_sums_of_linear_layers_are_heads_too():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, images):
            return self.a(images.flatten(1)) + self.b(images.flatten(1))

    half = with_float32_head(Two().eval(), torch.bfloat16)
    assert (
        json.dumps([type(half.a).__name__, type(half.b).__name__])
        == '["_Float32Linear", "_Float32Linear"]'
    )
