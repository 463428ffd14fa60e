"""A denoiser before a frozen classifier: one network, recorded, audited and continued as one."""

from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from rsray import api, models
from rsray.certification.networks.opening import open_denoiser, open_source
from rsray.certification.request import open_certification
from rsray.config import TrainConfig
from rsray.errors import UserError
from rsray.models import weights_bytes
from rsray.storage.yaml_files import from_yaml, to_yaml

DIGITS = SimpleNamespace(image_shape=(1, 8, 8), num_classes=10)
KNOWN = {"classes": [str(i) for i in range(10)], "image_shape": [1, 8, 8]}
SETTINGS = {"n": 200, "n0": 10, "limit": 3, "precision": "fp32", "progress": False}


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a finished RUN of random weights and returns its path."""

    def make(name, model, seed=0, **record):
        torch.manual_seed(seed)
        network = models.build(model, image_shape=DIGITS.image_shape, num_classes=10)
        if model in models.DENOISERS:
            torch.nn.init.normal_(network.noise[-1].weight, std=0.05)
        objective = "denoise" if model in models.DENOISERS else "gaussian"
        settings = {"dataset": "digits", "sigma": 0.5, "objective": objective, "model": model}
        config = TrainConfig.make(settings).model_dump(mode="json")
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.yaml").write_bytes(to_yaml({**config, **KNOWN, **record}))
        (folder / "model.safetensors").write_bytes(weights_bytes(network))
        return str(folder)

    return make


@pytest.fixture
def clean(make_run):
    return make_run("clean", "lenet")


@pytest.fixture
def denoiser(make_run):
    return make_run("denoiser", "dncnn6", seed=1)


@torch.no_grad()
def opened(source, **given):
    return open_certification(source, {"precision": "fp32", "limit": 3, **given})


@torch.no_grad()
def test_it_stands_before_the_classifier(clean, denoiser):
    images = torch.rand(4, *DIGITS.image_shape)
    request = opened(clean, denoiser=denoiser)
    whole = request.source.build(request.split)
    assert not whole.training
    alone = models.build("dncnn6", image_shape=DIGITS.image_shape, num_classes=10).eval()
    models.load_weights(alone, f"{denoiser}/model.safetensors")
    expected = open_source(clean).build(DIGITS)(alone(images))
    torch.testing.assert_close(whole(images), expected)
    assert not torch.allclose(expected, open_source(clean).build(DIGITS)(images))


def test_the_digest_covers_both(clean, denoiser, make_run):
    other, classifier = make_run("other", "dncnn6", seed=2), make_run("b", "lenet", seed=3)
    pairs = [(clean, None), (clean, denoiser), (clean, other), (classifier, denoiser)]
    made = [opened(source, **({"denoiser": each} if each else {})).config for source, each in pairs]
    assert len({config.model_digest for config in made}) == 4
    assert [config.denoiser for config in made] == [None, denoiser, other, denoiser]
    assert {config.model for config in made} == {"lenet"}, "the classifier's"


@torch.no_grad()
def test_before_an_ensemble(clean, denoiser, make_run):
    other = make_run("b", "resnet8", seed=3)
    request = opened(f"ensemble:{clean},{other}", denoiser=denoiser)
    images = torch.rand(4, *DIGITS.image_shape)
    each = [opened(path, denoiser=denoiser).source.build(DIGITS)(images) for path in (clean, other)]
    torch.testing.assert_close(request.source.build(DIGITS)(images), (each[0] + each[1]) / 2)


@pytest.mark.slow
def test_certified_verified_audited_and_continued(clean, denoiser, make_run, tmp_path):
    cert = tmp_path / "cert"
    made = api.certify(clean, denoiser=denoiser, **SETTINGS, out=cert)
    record = from_yaml((cert / "certify.yaml").read_bytes(), "certify.yaml")
    assert record["denoiser"] == made.summary["denoiser"] == denoiser
    assert api.verify(cert).is_equal
    assert api.audit(cert, clean, blocks=3, progress=False).num_exact == 3
    other = make_run("other", "dncnn6", seed=2)
    with pytest.raises(UserError, match="behind that denoiser is not the network that"):
        api.audit(cert, clean, denoiser=other, blocks=3, progress=False)
    before = pq.read_table(cert / "certificates.parquet")
    (cert / "certificates.parquet").unlink()
    assert api.certify(clean, denoiser=denoiser, **SETTINGS, out=cert).table.equals(before)
    for given in ({}, {"denoiser": other}):
        with pytest.raises(UserError, match="model_digest is"):
            api.certify(clean, **given, **SETTINGS, out=cert)


def test_predicted(clean, denoiser):
    assert len(api.predict(clean, denoiser=denoiser, n=50, limit=3, precision="fp32").table) == 3


def test_what_is_no_denoiser(clean, denoiser, tmp_path, make_run):
    for text, words in (
        (clean, "is of the network 'lenet', no denoiser"),
        (str(tmp_path), "is no RUN folder"),
        ("nowhere", "denoiser nowhere does not exist"),
        ("s3://", "names nothing"),
    ):
        with pytest.raises(UserError, match=words):
            open_denoiser(text)
    with pytest.raises(UserError, match="is a denoiser, no classifier: give it with --denoiser"):
        opened(denoiser)
    with pytest.raises(UserError, match="trained on images of 1 x 28 x 28"):
        opened(clean, denoiser=make_run("large", "dncnn6", image_shape=[1, 28, 28]))


def test_another_sigma_is_said(clean, make_run, caplog):
    denoiser = make_run("denoiser", "dncnn6", sigma=0.25)
    opened(clean, denoiser=denoiser)
    assert "was trained with sigma 0.25, not 0.5" in caplog.text


FACTORY = """
import torch
from rsray.models import DENOISERS

def make(image_shape):
    torch.manual_seed({seed})
    network = DENOISERS["dncnn6"](image_shape)
    torch.nn.init.normal_(network.noise[-1].weight, std=0.05)
    return network

def other_each_time(image_shape):
    torch.seed()
    network = DENOISERS["dncnn6"](image_shape)
    return network

def logits(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "own_denoisers.py").write_text(FACTORY.format(seed=1))
    (tmp_path / "own_denoisers_2.py").write_text(FACTORY.format(seed=2))
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_factory_makes_one_with_its_weights(clean, factories):
    first, second = (opened(clean, denoiser=f"own_denoisers{end}:make") for end in ("", "_2"))
    assert first.config.model_digest != second.config.model_digest, "of other weights"
    assert first.source.is_users_code and not opened(clean).source.is_users_code
    assert first.source.build(first.split) is not None


@pytest.mark.slow
def test_a_factory_is_named_by_the_user_alone(clean, factories, tmp_path):
    cert, given = tmp_path / "cert", {"denoiser": "own_denoisers:make"}
    api.certify(clean, **given, **SETTINGS, out=cert)
    with pytest.raises(UserError, match=r"which is code: .* \(--denoiser own_denoisers:make\)"):
        api.audit(cert, clean, blocks=2, progress=False)
    assert api.audit(cert, clean, **given, blocks=2, progress=False).is_passed
    with pytest.raises(UserError, match=r"which is code: .* \(--denoiser own_denoisers:make\)"):
        api.certify(clean, config=cert / "certify.yaml", progress=False, out=tmp_path / "x")


def test_a_factory_that_cannot_be_relied_on(clean, factories):
    request = opened(clean, denoiser="own_denoisers:other_each_time")
    with pytest.raises(UserError, match="has other weights each time that it is made"):
        request.source.build(request.split)
    with pytest.raises(UserError, match=r"must return images of shape \(1, 1, 8, 8\)"):
        opened(clean, denoiser="own_denoisers:logits")


def test_a_shipment_carries_it(clean, denoiser, factories, tmp_path):
    from rsray.cluster.packaging import copy_all
    from rsray_cli.cluster import typed_line

    line = typed_line(["certify", clean, "--denoiser", denoiser])
    folder, there = copy_all(line, tmp_path / "package", print), line.there()
    assert (folder / there[1] / "model.safetensors").is_file()
    assert (folder / there[3] / "model.safetensors").is_file()
    words = ["certify", clean, "--denoiser=own_denoisers:make", "--model", "lenet"]
    line = typed_line(words)
    assert line.modules == ("own_denoisers",) and line.there()[2:] == words[2:]
    remote = ["certify", "s3://b/a", "--denoiser", "s3://b/d"]
    assert typed_line(remote).there() == remote and typed_line(remote).modules == ()
