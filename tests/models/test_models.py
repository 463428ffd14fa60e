import sys

import pytest
import torch
from torch import nn

from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.models import MODELS, Normalise, build, check
from rsray.models.resnet_cifar import CifarResNet

CASES = [
    ("lenet", (1, 28, 28), 10),
    ("lenet", (1, 8, 8), 10),
    ("lenet", (3, 16, 20), 7),
    ("resnet20", (3, 32, 32), 10),
    ("resnet20", (1, 28, 28), 10),
    ("resnet110", (3, 32, 32), 10),
    ("resnet50", (3, 64, 64), 50),
]


@pytest.mark.parametrize(("name", "image_shape", "num_classes"), CASES)
def test_shapes(name, image_shape, num_classes):
    check(build(name, image_shape=image_shape, num_classes=num_classes), image_shape, num_classes)


@pytest.mark.parametrize(
    ("name", "image_shape", "count"),
    [
        ("lenet", (1, 28, 28), 431_080),  # MACER's and Caffe's LeNet
        ("resnet20", (3, 32, 32), 272_474),  # 0.27 M: option A's 269,722 plus two 1x1 shortcuts
        ("resnet110", (3, 32, 32), 1_730_714),
        ("resnet50", (3, 224, 224), 25_557_032),  # as torchvision documents, 1000 classes
    ],
)
def test_parameter_counts(name, image_shape, count):
    model = build(name, image_shape=image_shape, num_classes=1000 if name == "resnet50" else 10)
    assert sum(p.numel() for p in model.parameters()) == count


def test_names_of_cohens_checkpoints():
    keys = set(build("resnet110", image_shape=(3, 32, 32), num_classes=10).state_dict())
    assert {
        "conv1.weight", "bn1.running_var", "layer1.17.conv2.weight", "layer2.0.downsample.0.weight",
        "layer3.0.downsample.1.bias", "layer3.17.bn2.weight", "fc.bias",
    } <= keys  # fmt: skip


def test_global_pooling_equals_cohens_at_32_pixels():
    torch.manual_seed(0)
    model = CifarResNet(20, (3, 32, 32), 10).eval()
    images = torch.rand(2, 3, 32, 32)
    expected = model(images)
    model.avgpool = nn.AvgPool2d(8)
    torch.testing.assert_close(model(images), expected)


def test_depth_must_be_6n_plus_2():
    with pytest.raises(ValueError, match="6n"):
        CifarResNet(21, (3, 32, 32), 10)


@pytest.mark.parametrize("dataset", ["cifar10", "svhn", "imagenet", "mini-imagenet50"])
def test_normalisation_is_the_first_layer(dataset):
    statistics = mean, std = DATASETS[dataset].statistics
    model = build("resnet20", image_shape=(3, 32, 32), num_classes=10, statistics=statistics)
    image = torch.tensor(mean)[:, None, None].expand(3, 32, 32)[None]
    torch.testing.assert_close(model.normalise(image), torch.zeros_like(image))
    brighter = image + torch.tensor(std)[:, None, None]
    torch.testing.assert_close(model.normalise(brighter), torch.ones_like(image))
    assert list(dict(model.named_children())) == ["normalise", "network"]


@pytest.mark.parametrize("dataset", [None, "mnist", "digits", "parquet"])
def test_no_normalisation_without_statistics(dataset):
    statistics = DATASETS[dataset].statistics if dataset else None
    model = build("lenet", image_shape=(1, 28, 28), num_classes=10, statistics=statistics)
    assert not hasattr(model, "normalise")


def test_normalise_refuses_bad_statistics():
    with pytest.raises(ValueError, match="std"):
        Normalise((0.5,), (0.0,))


def test_unknown_name_lists_the_names():
    with pytest.raises(UserError, match="resnet19.*" + ".*".join(MODELS)):
        build("resnet19", image_shape=(3, 32, 32), num_classes=10)


def test_channels_that_do_not_fit():
    with pytest.raises(UserError, match="channels"):
        build(
            "resnet20",
            image_shape=(1, 32, 32),
            num_classes=10,
            statistics=DATASETS["cifar10"].statistics,
        )
    with pytest.raises(UserError, match="3 channels"):
        build("resnet50", image_shape=(1, 224, 224), num_classes=10)


FACTORIES = """
from torch import nn
import torch

def both(image_shape, num_classes):
    c, h, w = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, num_classes))
def classes_only(*, num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, num_classes))
def nothing():
    return classes_only(num_classes=4)
def anything(**arguments):
    return both(**arguments)
def with_default(width=3, num_classes=10):
    return classes_only(num_classes=num_classes)
def raises(num_classes):
    raise RuntimeError("out of luck\\nsecond line")
def no_module(num_classes):
    return "a string"
class Class(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(36, num_classes)
    def forward(self, x):
        return self.layer(x.flatten(1))
class Holder:
    make = staticmethod(both)
number = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "users_own_models.py").write_text(FACTORIES)
    (tmp_path / "users_broken_models.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_own_models"
    for name in ("users_own_models", "users_broken_models"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "factory",
    ["both", "classes_only", "nothing", "anything", "with_default", "Class", "Holder.make"],
)
def test_users_factories(factories, factory):
    model = build(f"{factories}:{factory}", image_shape=(1, 6, 6), num_classes=4)
    check(model, (1, 6, 6), 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_anywhere:make", "cannot be imported"),
        ("users_broken_models:make", "ZeroDivisionError"),
        ("users_own_models:absent", "no attribute 'absent'"),
        ("users_own_models:number", "callable"),
        ("users_own_models:raises", "RuntimeError: out of luck$"),
        ("users_own_models:no_module", "torch.nn.Module, got str"),
        ("users_own_models:", "package.module:factory"),
        (":make", "package.module:factory"),
    ],
)
def test_users_factories_that_fail(factories, name, message):
    with pytest.raises(UserError, match=message) as caught:
        build(name, image_shape=(1, 6, 6), num_classes=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 5)), r"\(1, 4\), got \(1, 5\)"),
        (nn.Linear(7, 4), "fails on an image"),
        (nn.Identity(), "logits"),
    ],
)
def test_check_refuses(model, message):
    with pytest.raises(UserError, match=message):
        check(model, (1, 6, 6), 4)


def test_check_keeps_the_training_mode():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 4)).train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check(model, (1, 6, 6), 4)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
