import pytest
import torch
from safetensors import safe_open
from saved_weights import save_weights
from torch import nn

from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.models import build, load_weights

SHAPE = (3, 32, 32)


STATISTICS = DATASETS["cifar10"].statistics


def resnet(seed, statistics=STATISTICS, num_classes=10):
    torch.manual_seed(seed)
    return build("resnet20", image_shape=SHAPE, num_classes=num_classes, statistics=statistics)


def same(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_round_trip_from_path_and_bytes(tmp_path):
    path = tmp_path / "model.safetensors"
    model = resnet(0)
    save_weights(model, path, {"epoch": "3"})
    for source in (path, str(path), path.read_bytes()):
        other = resnet(1)
        assert not same(model, other)
        load_weights(other, source)
        assert same(model, other)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"epoch": "3"}
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_tied_weights_and_channels_last(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)).to(
        memory_format=torch.channels_last
    )
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "w.safetensors")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.zero_()
    load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_mismatches_are_named_and_leave_the_model_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(resnet(0), path)
    bare, wider = resnet(1, None), resnet(1, num_classes=11)
    before = [value.clone() for value in wider.state_dict().values()]
    with pytest.raises(
        UserError, match=r"model.safetensors does not fit model CifarResNet: missing .*bn1"
    ):
        load_weights(bare, path)
    with pytest.raises(
        UserError, match=r"shape: .*network.fc.weight is \[10, 64\], not \[11, 64\]"
    ):
        load_weights(wider, path)
    assert all(torch.equal(a, b) for a, b in zip(before, wider.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:5], lambda b: b"", lambda b: b"PK" + b]
)
def test_damaged_files(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_weights(resnet(0), path)
    path.write_bytes(damage(path.read_bytes()))
    for source in (path, path.read_bytes()):
        with pytest.raises(UserError, match="damaged or not a safetensors file"):
            load_weights(resnet(1), source)


def test_absent_file(tmp_path):
    with pytest.raises(UserError, match=r"absent.*cannot be read"):
        load_weights(resnet(0), tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(resnet(0), tmp_path)
