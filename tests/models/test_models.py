import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn

from rsray.certification.engine.compiled import nominal_speed
from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.models import MODELS, Normalise, build, check, check_made_alike
from rsray.models.first_convolution import FirstConvolution
from rsray.models.mean_logits import MeanLogits
from rsray.models.resnet import CifarResNet
from rsray.objectives import Stability

CASES = [
    ("lenet", (1, 28, 28), 10),
    ("lenet", (1, 8, 8), 10),
    ("lenet", (3, 16, 20), 7),
    ("lenet9", (1, 28, 28), 10),
    ("lenet9", (3, 8, 9), 7),
    ("resnet8", (3, 8, 8), 10),
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
        ("lenet9", (1, 28, 28), 571_398),  # 32 (81 + 1) + 64 (32 25 + 1) + 500 (64 16 + 1) + 5,010
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
def handed_on(pretrained=False, **kwargs):  # as timm's and torchvision's do
    return classes_only(**kwargs)
def knows_nothing(**kwargs):
    return nothing(**kwargs)
def with_arguments(image_shape, num_classes, width=3, bias=True):
    model = both(image_shape, num_classes)
    model.width, model.has_bias = width, bias
    return model
def half(image_shape, num_classes):
    return both(image_shape, num_classes).half()
def double(image_shape, num_classes):
    return both(image_shape, num_classes).double()
class Output(dict):
    pass
class HuggingFace(nn.Module):
    def __init__(self, num_classes, how="attribute"):
        super().__init__()
        self.layer, self.how = nn.Linear(36, num_classes), how
    def forward(self, x):
        logits = self.layer(x.flatten(1))
        if self.how == "mapping":
            return {"loss": None, "logits": logits}
        output = Output(hidden=x)
        output.logits = logits
        return output
class Inception(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer, self.auxiliary = nn.Linear(36, num_classes), nn.Linear(36, num_classes)
    def forward(self, x):
        logits = self.layer(x.flatten(1))
        return (logits, self.auxiliary(x.flatten(1))) if self.training else logits
class AlwaysTwo(Inception):
    def forward(self, x):
        return self.layer(x.flatten(1)), x
class InPlace(Inception):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))
class Asserts(Inception):
    def forward(self, x):
        assert 0 <= x.min() and x.max() <= 1, "images must be in [0, 1]"
        return super().forward(x)
class CountsItsSteps(Class):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        first = {"steps": nn.Parameter(torch.tensor(3), requires_grad=False)}
        self._parameters = first | self._parameters
class PlainList(Class):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.layers = [nn.Linear(36, 36)]
    def forward(self, x):
        return super().forward(self.layers[0](x.flatten(1)))
class NotSaved(Class):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("scale", torch.rand(36), persistent=False)
    def forward(self, x):
        return super().forward(self.scale * x.flatten(1))
wider = [8]
def wider_each_time(num_classes):
    wider[0] += 1
    return nn.Sequential(nn.Flatten(), nn.Linear(36, wider[0]), nn.Linear(wider[0], num_classes))
class Dropped(Class):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x.flatten(1)))
kept = classes_only(num_classes=4)
def keeps_it():
    return kept
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
    [
        "both", "classes_only", "nothing", "anything", "with_default", "Class", "Holder.make",
        "handed_on", "knows_nothing", "half", "double", "HuggingFace", "Inception", "keeps_it",
    ],
)  # fmt: skip
def test_users_factories(factories, factory):
    model = build(f"{factories}:{factory}", image_shape=(1, 6, 6), num_classes=4)
    check(model, (1, 6, 6), 4)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.train()(torch.rand(2, 1, 6, 6)).shape == (2, 4)


def test_a_network_that_its_factory_keeps_is_another_each_time(factories):
    """Members of an ensemble had the weights of the last one, a training began with another's."""
    first, second = (
        build(f"{factories}:keeps_it", image_shape=(1, 6, 6), num_classes=4) for _ in range(2)
    )
    nn.init.zeros_(first[2].weight)
    assert second[2].weight.all()


@pytest.mark.parametrize(
    ("factory", "is_one"),
    [
        ("Class", True), ("keeps_it", True), ("HuggingFace", True), ("half", True),
        # Which others refuse, and say why.
        ("Dropped", True),
        ("PlainList", False), ("NotSaved", False), ("wider_each_time", False),
    ],
)  # fmt: skip
def test_a_factory_makes_one_function_of_the_same_weights(factories, factory, is_one):
    """Processes counted the classes of different networks, and nothing said so."""
    name, shape = f"{factories}:{factory}", (1, 6, 6)
    model, again = (build(name, image_shape=shape, num_classes=4) for _ in range(2))
    refused = pytest.raises(UserError, match=f"{factory}' is another network each time")
    with nullcontext() if is_one else refused:
        check_made_alike(model, again, name, shape)


def test_weights_of_whole_numbers_say_nothing_of_images(factories):
    """Such a network was refused: its images were made whole numbers, too."""
    model = build(f"{factories}:CountsItsSteps", image_shape=(1, 6, 6), num_classes=4)
    assert next(model.parameters()).dtype == torch.int64
    check(model, (1, 6, 6), 4)
    assert nominal_speed(model, (1, 6, 6), "fp32", "cpu") > 0


@pytest.mark.parametrize("name", ["timm.models:resnet18", "torchvision.models:resnet18"])
def test_library_factories(name, tmp_path, monkeypatch):
    if name.startswith("timm"):  # a stand-in, with timm's signature
        (tmp_path / "timm").mkdir()
        (tmp_path / "timm/__init__.py").touch()
        (tmp_path / "timm/models.py").write_text(
            "import torchvision\n"
            "def resnet18(pretrained=False, **kwargs):\n"
            "    assert not pretrained\n"
            "    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2] * 4, **kwargs)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
    model = build(name, image_shape=(3, 32, 32), num_classes=7)
    check(model, (3, 32, 32), 7)
    arguments = {"num_classes": 5, "zero_init_residual": True}
    other = build(name, image_shape=(3, 32, 32), num_classes=7, arguments=arguments)
    assert other.fc.out_features == 5 and not other.layer1[0].bn2.weight.any()
    with pytest.raises(UserError, match=r"resnet18' raised TypeError: .*'depth'"):
        build(name, image_shape=(3, 32, 32), num_classes=7, arguments={"depth": 3})
    for module in ("timm", "timm.models"):
        sys.modules.pop(module, None)


def test_torchvisions_vision_transformer_takes_its_image_size():
    name, arguments = "torchvision.models:vit_b_16", {"image_size": 32}
    model = build(name, image_shape=(3, 32, 32), num_classes=7, arguments=arguments)
    check(model, (3, 32, 32), 7)
    with pytest.raises(UserError, match="Wrong image height"):
        check(build(name, image_shape=(3, 32, 32), num_classes=7), (3, 32, 32), 7)


@torch.no_grad()
def test_what_a_factorys_network_does_to_its_images_nobody_else_sees(factories):
    """Members of an ensemble, and losses that use images twice, see what they would see alone."""
    make = partial(build, f"{factories}:InPlace", image_shape=(1, 6, 6), num_classes=4)
    members = [make().eval(), make().eval()]
    images = torch.rand(5, 1, 6, 6)
    alone = [member(images.clone()) for member in members]
    torch.testing.assert_close(MeanLogits(members)(images), (alone[0] + alone[1]) / 2)
    kept = images.clone()
    noise = torch.zeros(5, 1, 1, 6, 6)
    step = Stability(sigma=0.25).step(members[0], images, torch.zeros(5).long(), noise)
    torch.testing.assert_close(step.logits_BMK[:, 0], alone[0])
    assert torch.equal(images, kept)


def test_arguments_reach_a_factory_and_nothing_else(factories):
    shape, arguments = (1, 6, 6), {"width": 8, "bias": False}
    name = f"{factories}:with_arguments"
    model = build(name, image_shape=shape, num_classes=4, arguments=arguments)
    assert (model.width, model.has_bias) == (8, False)
    with pytest.raises(
        UserError, match=r"model 'lenet' takes no arguments \(model-args width, bias"
    ):
        build("lenet", image_shape=shape, num_classes=4, arguments=arguments)
    name, arguments = f"{factories}:HuggingFace", {"how": "mapping"}
    check(build(name, image_shape=shape, num_classes=4, arguments=arguments), shape, 4)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("AlwaysTwo", r"logits of shape \(1, 4\), got tuple"),
        ("Asserts", r"with Gaussian noise: AssertionError: images must be in \[0, 1\]$"),
    ],
)
def test_what_a_network_returns_in_evaluation_is_not_guessed(factories, factory, message):
    model = build(f"{factories}:{factory}", image_shape=(1, 6, 6), num_classes=4)
    with pytest.raises(UserError, match=message):
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


@pytest.mark.parametrize(("change", "message"), [
    (lambda logits: logits > 0, "got torch.bool$"), (lambda logits: logits * 1j, "got torch.complex"),
    (lambda logits: (logits, 1), "got tuple: of several outputs it must name one `logits`"),
    (lambda logits: sys.exit(3), "SystemExit: 3"),
])  # fmt: skip
def test_outputs_that_are_no_logits(change, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    model.register_forward_hook(lambda module, inputs, output: change(output))
    with pytest.raises(UserError, match=message):
        check(model, (1, 6, 6), 4)


def test_data_of_one_class_make_no_classifier():
    with pytest.raises(UserError, match="one class: a classifier needs two"):
        check(nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), (1, 6, 6), 1)


def test_check_keeps_the_training_mode():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 4)).train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check(model, (1, 6, 6), 4)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_the_first_convolutions_gradient_for_images_is_pytorchs(channels, padding):
    torch.manual_seed(0)
    quick = FirstConvolution(channels, 4, (5, 3), padding=padding)
    plain = nn.Conv2d(channels, 4, (5, 3), padding=padding)
    plain.load_state_dict(quick.state_dict())
    for layer in (quick, plain):
        layer.requires_grad_(False)
    images = torch.rand(6, channels, 12, 9).requires_grad_(True)
    wanted = torch.randn_like(plain(images))
    (found,) = torch.autograd.grad(quick(images), images, wanted)
    (true,) = torch.autograd.grad(plain(images), images, wanted)
    assert torch.equal(quick(images), plain(images))
    torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-5)


def test_the_first_convolution_is_differentiated_twice_and_image_by_image():
    torch.manual_seed(0)
    layer = FirstConvolution(1, 4, 3).requires_grad_(False)
    plain = nn.Conv2d(1, 4, 3)
    plain.load_state_dict(layer.state_dict())
    plain.requires_grad_(False)
    images = torch.rand(5, 1, 8, 8)

    def curvature(network):
        given = images.clone().requires_grad_(True)
        (first,) = torch.autograd.grad(network(given).pow(3).sum(), given, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), given)[0]

    def each(network):
        return torch.func.vmap(torch.func.grad(lambda x: network(x[None]).pow(2).sum()))(images)

    for ask in (curvature, each):
        torch.testing.assert_close(ask(layer), ask(plain), rtol=1e-4, atol=1e-3)


def test_the_first_convolution_is_pytorchs_where_its_weights_are_trained_too():
    layer = FirstConvolution(1, 4, 5)
    images = torch.rand(2, 1, 12, 12).requires_grad_(True)
    assert type(layer(images).grad_fn).__name__ == "ConvolutionBackward0"
    layer.weight.requires_grad_(False)
    assert type(layer(images).grad_fn).__name__ == "ConvolutionBackward0", "its bias is trained"
    layer.requires_grad_(False)
    assert type(layer(images).grad_fn).__name__ == "_WithQuickGradientBackward"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert type(layer(images).grad_fn).__name__ == "ConvolutionBackward0"


def test_the_first_convolution_can_be_traced():
    network = build("lenet", image_shape=(1, 28, 28), num_classes=10).eval()
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(images), network(images))
