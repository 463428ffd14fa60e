"""What an attack needs within the trainer: eval mode, no gradients of parameters."""

import sys
import types

import pytest
import torch
from torch import nn

PASSES = []


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Linear(24, 10)
        )

    def forward(self, images):
        PASSES.append((self.net[2].training, next(self.parameters()).requires_grad))
        return self.net(images)


class Wrapper(nn.parallel.DistributedDataParallel):
    """As much of data parallelism as needs no process group."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module

    def forward(self, *inputs):
        PASSES.append("wrapper")
        return self.module(*inputs)


ATTACKED, TRAINED = (False, False), (True, True)
METHODS = {
    "smoothadv": ({"num_steps": 2}, 1),
    "adre-adv": ({"num_steps": 2}, 1),
    "smoothmix": ({"num_steps": 2}, 2),  # a pass on the images and one on the mixtures
    "smoothadv+consistency": ({"num_steps": 2}, 1),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_attacks_see_the_network_frozen(name, is_wrapped, lab, monkeypatch):
    module = types.ModuleType("watched_net")
    module.make = Watched
    monkeypatch.setitem(sys.modules, "watched_net", module)
    settings, trained = METHODS[name]
    config = lab.config(
        model="watched_net:make", objective=name, epochs=1, limit=8, batch_size=8, num_draws=2,
        warm_up_epochs=0, **settings,
    )  # fmt: skip
    training = lab.training(config)
    if is_wrapped:
        training.network.module = Wrapper(training.model)
        training.network.module.no_sync = None
    PASSES.clear()
    training.run_epochs()
    pass_of_training = ["wrapper", TRAINED] if is_wrapped else [TRAINED]
    assert PASSES == [ATTACKED] * 2 + pass_of_training * trained
    assert training.model.net[2].num_batches_tracked == trained
    assert all(p.requires_grad for p in training.model.parameters()) and training.model.training


def test_the_module_comes_back_after_an_error():
    from rsray.objectives.attacks.steps import frozen
    from rsray.training.step import AutocastNetwork

    network = AutocastNetwork(Watched(), "fp32")
    module = network.module
    with pytest.raises(KeyError), frozen(network) as still:
        assert not still.module.training
        raise KeyError
    assert network.module is module and module.training
    assert still(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
