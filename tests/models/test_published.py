import os
import pickle

import pytest
import torch

from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.models import build, load_published

SHAPE = (3, 32, 32)
STATISTICS = DATASETS["cifar10"].statistics


def resnet(seed, statistics=STATISTICS, name="resnet20"):
    torch.manual_seed(seed)
    return build(name, image_shape=SHAPE, num_classes=10, statistics=statistics)


def cohen(prefix):
    return lambda state: {
        "epoch": 90,
        "arch": "cifar_resnet20",
        "state_dict": {prefix + key: value for key, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }


LAYOUTS = {
    "cohen": (cohen("1."), True),
    "cohen, parallel inside": (cohen("1.module."), True),
    "cohen, parallel outside": (cohen("module.1."), True),
    "cohen, no layer": (cohen(""), None),
    "cohen, parallel without layer": (cohen("module."), None),
    "macer": (lambda state: {"net": state, "epoch": 440}, False),
    "macer, parallel": (
        lambda state: {"net": {f"module.{k}": v for k, v in state.items()}, "epoch": 440},
        False,
    ),
    "plain": (lambda state: state, None),
    "compiled": (lambda state: {f"_orig_mod.network.{k}": v for k, v in state.items()}, None),
    "with statistics": (
        lambda state: {
            "0.means": torch.tensor([0.4914, 0.4822, 0.4465]),
            "0.sds": torch.tensor([0.2023, 0.1994, 0.2010]),
            **{f"1.{k}": v for k, v in state.items()},
        },
        True,
    ),
    "before batch counts": (
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        None,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_round_trip(tmp_path, layout):
    wrap, normalised = LAYOUTS[layout]
    source, target = resnet(0).eval(), resnet(1).eval()
    torch.save(wrap(source.network.state_dict()), tmp_path / "checkpoint.pth.tar")
    metadata = load_published(tmp_path / "checkpoint.pth.tar", target)
    assert metadata["normalised"] is normalised
    images = torch.rand(2, *SHAPE)
    expected = source.network(images) if normalised is False else source(images)
    torch.testing.assert_close(target(images), expected)


def test_metadata(tmp_path):
    torch.save(cohen("1.")(resnet(0).network.state_dict()), tmp_path / "c")
    metadata = load_published(tmp_path / "c", resnet(1))
    assert metadata == {"epoch": 90, "arch": "cifar_resnet20", "normalised": True}


def test_onto_a_bare_network(tmp_path):
    source, target = resnet(0, None), resnet(1, None)
    torch.save(cohen("module.")(source.state_dict()), tmp_path / "c")
    load_published(tmp_path / "c", target)
    assert all(
        torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items()
    )


def test_macers_lenet_fits(tmp_path):
    state = {
        "conv1.weight": torch.ones(20, 1, 5, 5), "conv1.bias": torch.ones(20),
        "conv2.weight": torch.ones(50, 20, 5, 5), "conv2.bias": torch.ones(50),
        "fc1.weight": torch.ones(500, 800), "fc1.bias": torch.ones(500),
        "fc2.weight": torch.ones(10, 500), "fc2.bias": torch.ones(10),
    }  # fmt: skip
    torch.save({"net": state, "epoch": 1}, tmp_path / "c")
    model = build("lenet", image_shape=(1, 28, 28), num_classes=10)
    assert load_published(tmp_path / "c", model)["epoch"] == 1
    assert model.fc1.weight.mean() == 1


def test_macers_layout_with_more_beside_the_weights(tmp_path):
    model = build("resnet20", image_shape=(3, 32, 32), num_classes=10, statistics=STATISTICS)
    state = {key: value for key, value in model.network.state_dict().items()}
    torch.save({"net": state, "epoch": 440, "acc": 0.5, "optimizer": {}}, tmp_path / "c")
    assert load_published(tmp_path / "c", model)["normalised"] is False


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, writer):
    content = {
        "state_dict": {"fc.weight": torch.zeros(1)},
        "arch": Malicious(str(tmp_path / "pwned")),
    }
    path = tmp_path / "evil.pth"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content["arch"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(UserError, match=r"evil.pth is refused"):
        load_published(path, resnet(0))
    assert not (tmp_path / "pwned").exists()


def test_mismatch_names_the_keys(tmp_path):
    torch.save(cohen("1.")(resnet(0, name="resnet20").network.state_dict()), tmp_path / "c")
    model = resnet(1, name="resnet110")
    before = model.network.fc.weight.clone()
    with pytest.raises(
        UserError, match=r"does not fit model CifarResNet: missing layer1.3.conv1.weight"
    ):
        load_published(tmp_path / "c", model)
    assert torch.equal(before, model.network.fc.weight)


def test_other_statistics_are_refused(tmp_path):
    wrap, _ = LAYOUTS["with statistics"]
    torch.save(wrap(resnet(0).network.state_dict()), tmp_path / "c")
    with pytest.raises(UserError, match=r"0.means"):
        load_published(tmp_path / "c", resnet(1, DATASETS["imagenet"].statistics))
    with pytest.raises(UserError, match=r"0.means"):
        load_published(tmp_path / "c", resnet(1, None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 not a zip", "damaged"),
        (b"index\tlabel\tpredict\n", "damaged"),
    ],
)
def test_not_a_checkpoint(tmp_path, content, message):
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_published(path, resnet(0))


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"epoch": 3}, {}, {"state_dict": {"a": 3}}]
)
def test_not_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "c")
    with pytest.raises(UserError, match="state dict"):
        load_published(tmp_path / "c", resnet(0))


def test_whatever_the_reader_raises_for_damage(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise AssertionError

    torch.save({"net": {}, "epoch": 1}, tmp_path / "c")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(UserError, match="damaged"):
        load_published(tmp_path / "c", resnet(0))


def test_truncated_and_absent(tmp_path):
    path = tmp_path / "c"
    torch.save(resnet(0).network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        load_published(path, resnet(0))
    with pytest.raises(UserError, match="cannot be read"):
        load_published(tmp_path / "absent", resnet(0))
