"""Networks in half precision give float32 logits, in training as in certification."""

import copy

import pytest
import torch
from torch import nn

from rsray.models import build
from rsray.models.heads import heads_of, keep_heads_in_float32


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_logits_under_autocast_are_float32_and_the_gradient_arrives(name, half):
    torch.manual_seed(0)
    model = build(name, image_shape=(3, 32, 32), num_classes=10).eval()
    images = torch.rand(16, 3, 32, 32)
    want = model(images)
    keys = list(model.state_dict())
    keep_heads_in_float32(model)
    assert list(model.state_dict()) == keys
    with torch.autocast("cpu", half):
        logits = model(images)
    assert logits.dtype == torch.float32
    assert (logits - want).abs().max() < 0.05 * (1 + want.abs().max())
    assert len(set(logits.flatten().tolist())) == logits.numel()  # no two rounded to the same
    logits.square().sum().backward()
    (head,) = heads_of(model)
    assert all(each.grad.abs().sum() > 0 for each in model.parameters())
    assert model.get_submodule(head).weight.grad.dtype == torch.float32


def test_a_copy_computes_with_its_own_weights():
    layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    keep_heads_in_float32(layer)
    other = copy.deepcopy(layer)
    nn.init.zeros_(other[1].weight)
    nn.init.zeros_(other[1].bias)
    with torch.autocast("cpu", torch.bfloat16):
        images = torch.rand(2, 4)
        assert other(images).abs().sum() == 0 and layer(images).abs().sum() > 0


def test_a_users_own_layer_computes_what_it_computes():
    """A network that cannot be traced is taken to end in its last linear layer, of any class."""

    class Cosine(nn.Linear):
        def forward(self, features_NF):
            return 10 * super().forward(nn.functional.normalize(features_NF))

    class Network(nn.Sequential):
        def forward(self, images):
            return super().forward(images if images.sum() > 0 else -images)

    network = Network(nn.Flatten(), Cosine(4, 3))
    images = torch.rand(5, 4)
    want = network(images)
    keep_heads_in_float32(network)
    with torch.autocast("cpu", torch.bfloat16):
        got = network(images)
    assert torch.equal(got, want)
