"""A folded network computes the same function."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm

from rsray.certification.engine.fold import fold, with_float32_head, with_pairwise_pools
from rsray.data import DATASETS
from rsray.models import Normalise, build


def randomise(model, seed=0):
    """Give every batch norm the statistics and scales of a trained network."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.2)
    return model.eval()


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def assert_same(model, folded, images):
    mean, std = (
        (torch.zeros(1), torch.ones(1)) if folded.mean_C is None else (folded.mean_C, folded.std_C)
    )
    want = model.double()(images.double())
    shaped = [each.view(-1, 1, 1).double() for each in (mean, std)]
    got = folded.network.double()((images.double() - shaped[0]) / shaped[1])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("statistics", [DATASETS["cifar10"].statistics, None])
def test_resnet20_with_randomised_statistics(statistics):
    torch.manual_seed(0)
    model = randomise(
        build("resnet20", image_shape=(3, 32, 32), num_classes=10, statistics=statistics)
    )
    folded = fold(model, (3, 32, 32))
    assert len(batch_norms(model)) == 21 and not batch_norms(folded.network)
    assert (folded.mean_C is None) == (statistics is None)
    assert_same(model, folded, torch.rand(4, 3, 32, 32))


def test_resnet50_with_randomised_statistics():
    torch.manual_seed(0)
    model = build(
        "resnet50",
        image_shape=(3, 64, 64),
        num_classes=7,
        statistics=DATASETS["imagenet"].statistics,
    )
    model = randomise(model)
    folded = fold(model, (3, 64, 64))
    assert not batch_norms(folded.network) and folded.why_not_folded is None
    assert_same(model, folded, torch.rand(1, 3, 64, 64))


def test_the_model_itself_is_untouched():
    model = randomise(
        build(
            "resnet20",
            image_shape=(3, 16, 16),
            num_classes=4,
            statistics=DATASETS["cifar10"].statistics,
        )
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    folded = fold(model, (3, 16, 16))
    assert all(module.training for module in model.modules())
    layers = [module for module in folded.network.modules() if type(module) is not nn.Module]
    assert not any(module.training for module in layers)  # tracing leaves empty nn.Modules behind
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_dropout_is_off_whatever_mode_the_model_is_in():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model = nn.Sequential(body, nn.Flatten(), nn.Dropout(0.9), nn.Linear(144, 3)).train()
    folded, images = fold(model, (1, 8, 8)), torch.rand(4, 1, 8, 8)
    assert not batch_norms(folded.network)
    torch.testing.assert_close(folded.network(images), model.eval()(images))


def test_normalisation_is_peeled():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    inner = [nn.Flatten(), nn.Linear(12, 3)]
    model = nn.Sequential(Normalise(mean, std), *inner)
    folded = fold(model, (3, 2, 2))
    assert folded.mean_C.tolist() == pytest.approx(mean)
    assert folded.std_C.tolist() == pytest.approx(std)
    assert not any(isinstance(module, Normalise) for module in folded.network.modules())
    assert folded.why_not_folded is None  # there was none
    assert_same(model, folded, torch.rand(5, 3, 2, 2))


@pytest.mark.parametrize("build_model", [
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)),
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 12), Normalise((0.0,), (1.0,)), nn.Linear(12, 3)),
    lambda: nn.Sequential(Normalise((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))),
])  # fmt: skip
def test_only_a_leading_normalisation_is_peeled(build_model):
    assert fold(build_model(), (3, 2, 2)).mean_C is None


class Untraceable(nn.Module):
    """A forward whose path depends on the pixels cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        features = self.norm(self.conv(images))
        return features.amax((2, 3)) if images.sum() > 0 else features.mean((2, 3))


def test_a_model_that_cannot_be_traced_is_returned_as_it_is():
    model = randomise(Untraceable())
    folded = fold(model, (1, 8, 8))
    assert folded.why_not_folded and isinstance(folded.network, Untraceable)
    for images in (torch.rand(2, 1, 8, 8), -torch.rand(2, 1, 8, 8)):
        assert torch.equal(folded.network(images), model(images))


def test_normalised_and_untraceable():
    model = nn.Sequential(Normalise((0.4,), (0.2,)), randomise(Untraceable()))
    folded = fold(model, (1, 8, 8))
    assert folded.mean_C.tolist() == pytest.approx([0.4])
    assert isinstance(folded.network, Untraceable)


class SharedNorm(nn.Module):
    """One batch norm behind two convolutions: folding it into one of them would be wrong."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        return (self.norm(self.a(images)) - 0.5 * self.norm(self.b(images))).mean((2, 3))


class BranchedConv(nn.Module):
    """A convolution whose output is used before its batch norm too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        features = self.conv(images)
        return (self.norm(features) + features).mean((2, 3))


class NormFirst(nn.Module):
    """A batch norm with no convolution before it."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3)

    def forward(self, images):
        return self.conv(self.norm(images)).mean((2, 3))


@pytest.mark.parametrize("kind", [SharedNorm, BranchedConv, NormFirst])
def test_awkward_networks_compute_the_same(kind):
    torch.manual_seed(0)
    model = randomise(kind())
    assert_same(model, fold(model, (1, 8, 8)), torch.rand(6, 1, 8, 8))


def test_a_sequential_with_a_forward_of_its_own_keeps_it():
    class Negative(nn.Sequential):
        def forward(self, images):
            return -super().forward(images)

    model = Negative(Normalise((0.5,), (0.2,)), nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    assert_same(model, fold(model, (1, 8, 8)), torch.rand(3, 1, 8, 8))


@torch.no_grad()
@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_float32_head_gives_float32_logits_near_the_networks(name):
    torch.manual_seed(0)
    model = randomise(build(name, image_shape=(3, 32, 32), num_classes=10))
    images = torch.rand(16, 3, 32, 32)
    want = model(images)
    network = with_float32_head(fold(model, (3, 32, 32)).network, torch.bfloat16)
    logits = network(images.bfloat16())
    assert logits.dtype == torch.float32
    assert (logits - want).abs().max() < 0.05 * (1 + want.abs().max())
    assert len(set(logits.flatten().tolist())) == logits.numel()  # no two rounded to the same


@torch.no_grad()
def test_a_bare_linear_layer_is_its_own_head():
    layer = nn.Linear(6, 3)
    images = torch.rand(5, 6).bfloat16()
    want = layer(images.float())
    # bfloat16 has rounded the weights on the way.
    torch.testing.assert_close(
        with_float32_head(layer, torch.bfloat16)(images), want, rtol=0.02, atol=0.02
    )


def test_a_network_without_linear_layers_is_bfloat16_throughout():
    network = with_float32_head(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), torch.bfloat16)
    assert network(torch.rand(2, 1, 8, 8).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 20, 7, 6), (1, 1, 5, 9), (2, 33, 2, 3)])
def test_pairwise_pools_give_every_bit_of_max_pools(shape, dtype, memory_format):
    pool = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
    images = torch.randn(shape, dtype=dtype).to(memory_format=memory_format)
    images[0, 0, 0, 1], images[0, 0, 1, 2] = float("nan"), -float("inf")
    want, got = pool(images), with_pairwise_pools(copy.deepcopy(pool))(images)
    assert got.shape == want.shape and got.dtype == dtype
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    assert got[0, 0, 0, 0].isnan()


def test_other_pools_stay():
    others = [
        nn.MaxPool2d(3), nn.MaxPool2d(2, stride=1), nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2),
        nn.MaxPool2d((2, 1)), nn.MaxPool2d(2, return_indices=True),
    ]  # fmt: skip
    network = nn.Sequential(*others, nn.Sequential(nn.MaxPool2d((2, 2), (2, 2))))
    found = with_pairwise_pools(network)
    assert [type(each) for each in found[:-1]] == [type(each) for each in others]
    assert not isinstance(found[-1][0], nn.MaxPool2d)


def test_lenet_with_pairwise_pools():
    torch.manual_seed(0)
    model = build("lenet", image_shape=(1, 28, 28), num_classes=10).eval()
    other = with_pairwise_pools(copy.deepcopy(model))
    assert not isinstance(other.pool, nn.MaxPool2d)
    images = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))


@torch.no_grad()
def test_small_logits_must_agree_as_closely_as_large_ones(monkeypatch):
    # Wrong by 5 %: found whatever the size of the logits, and whatever offset they share.
    def wrong(network):
        folded = copy.deepcopy(network)
        folded[4].weight.mul_(1.05)
        return folded

    monkeypatch.setattr("torch.fx.experimental.optimization.fuse", wrong)
    for size, offset in ((1.0, 0.0), (1e-4, 0.0), (1e-3, 100.0)):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        ).eval()  # fmt: skip
        model[4].weight.mul_(size)
        model[4].bias.mul_(size).add_(offset)
        folded = fold(model, (1, 8, 8))
        assert (folded.why_not_folded is None) == (offset > 0), (size, offset)


def test_an_exception_in_the_folded_network_is_caught():
    torch.manual_seed(0)
    model = nn.Sequential(
        spectral_norm(nn.Conv2d(1, 4, 3)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)
    )  # fmt: skip
    folded, images = fold(model, (1, 8, 8)), torch.rand(4, 1, 8, 8)
    assert batch_norms(folded.network) and folded.why_not_folded
    with torch.no_grad():
        assert torch.equal(folded.network(images), model.eval()(images))
