"""What the winner and its rival are trained with."""

from types import SimpleNamespace

import ray
import torch

from rsray.config import TuneConfig
from rsray.core.hardware import resolve_precision
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.trial import trial_config
from rsray.distributed.search.winner import cluster_precision, full_config, paper_config
from rsray.presets import search_config, train_config


def searched(flat, search=(), **tuning):
    base = search_config(flat)
    space = parse_space(search, base.objective)
    return TuneConfig.make({"train": base, "search": space, **tuning})


def test_a_point_with_other_epochs_moves_its_drops():
    config = searched({"dataset": "digits"}, ["epochs=int(4,64)"])
    for made in (full_config(config, {"epochs": 40}), trial_config(config, {"epochs": 40})):
        assert (made.epochs, made.lr_drops) == (40, (10, 35))
    both = searched({"dataset": "digits"}, ["epochs=int(4,64)", "lr_drops=choice([2],[3])"])
    assert full_config(both, {"epochs": 8, "lr_drops": "[3]"}).lr_drops == (3,)
    short = searched({"dataset": "digits"}, ["lr_drops=choice([4,8],[12])"], trial_epochs=8)
    assert trial_config(short, {"lr_drops": "[4, 8]"}).lr_drops == (2, 4)  # of 8 epochs, not 16
    attack = short.model_copy(
        update={"train": train_config({"dataset": "digits", "objective": "smoothadv"})}
    )
    assert full_config(attack, {}).settings["warm_up_epochs"] == 10
    assert trial_config(attack, {}).settings["warm_up_epochs"] == 5
    assert trial_config(attack, {"warm_up_epochs": 4}).settings["warm_up_epochs"] == 2
    assert full_config(short, {"lr_drops": "[4, 8]"}).lr_drops == (4, 8)


def test_the_winner_is_trained_on_all_images():
    config = searched({"dataset": "digits", "validation": 0.3})
    assert full_config(config, {}).validation == 0
    assert trial_config(config, {}).validation == config.validation == 0.15


def test_the_rival_is_the_papers_whatever_the_search_fixes():
    # num_draws, weight_decay and the attack are in no default space.
    rival = paper_config(
        searched(
            {"dataset": "imagenet", "objective": "smoothadv", "sigma": 0.5, "weight_decay": 0.1,
             "num_draws": 8, "epochs": 30, "batch_size": 64},
        )
    )  # fmt: skip
    paper = train_config({"epochs": 30, "batch_size": 64}, preset_name="smoothadv-imagenet-0.50")
    assert rival.identity() == paper.identity()
    assert rival.settings["num_steps"] == 1 and rival.settings["num_draws"] == 1
    assert paper_config(searched({"dataset": "cifar10", "sigma": 1.0})).settings["deferred"]


def test_where_nothing_is_published_the_rival_is_what_the_search_starts_from():
    config = searched({"dataset": "mnist", "sigma": 0.3, "lr": 0.02})
    assert paper_config(config).identity() == config.train.identity()


def test_a_machine_without_gpus_asks_a_worker_for_the_precision(monkeypatch):
    def remote(num_gpus):
        assert num_gpus == 0.5
        return lambda work: SimpleNamespace(remote=lambda precision, device: (precision, device))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", lambda asked: f"what {asked[1]} computes")
    assert cluster_precision(None, 0.5) == "what cuda computes"
    assert cluster_precision("fp32", 0.5) == "fp32"  # nobody need be asked
    assert cluster_precision(None, 0.0) == resolve_precision(None, torch.device("cpu"))
