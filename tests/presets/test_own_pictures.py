"""What training starts from on somebody's own pictures: one rule, over which every choice wins."""

import pytest

from rsray.config import TrainConfig, nest
from rsray.data import DATASETS
from rsray.objectives import OBJECTIVES
from rsray.presets import train_config
from rsray.presets.own_pictures import own_picture_settings

FEW = own_picture_settings("macer", (3, 32, 32), 480)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("num_images", [1, 480, 50_000])
def test_it_is_a_possible_setting_of_every_objective(objective, num_images):
    config = train_config(
        {},
        usual={
            "dataset": "imagefolder",
            **own_picture_settings(objective, (1, 28, 28), num_images),
        },
    )
    assert config.objective == objective and config.settings["num_draws"] <= 2
    assert all(0 < drop < config.epochs for drop in config.lr_drops)


def test_macer_begins_with_cross_entropy():
    config = TrainConfig.make(nest({"dataset": "imagefolder", **FEW}))
    macer, first_drop = config.build_objective(), min(config.lr_drops)
    assert macer.at_epoch(first_drop - 1, config.lr_drops).trade_off == 0
    assert macer.at_epoch(first_drop, config.lr_drops).trade_off > 0


def test_few_pictures_are_seen_more_often():
    steps = FEW["epochs"] * 480 / FEW["batch_size"]
    assert 270 <= steps <= 400
    assert own_picture_settings("macer", (3, 32, 32), 100_000)["epochs"] < FEW["epochs"]


def test_the_network_grows_with_the_set_and_its_pictures():
    def network(side, num_images):
        return own_picture_settings("gaussian", (3, side, side), num_images)["model"]

    assert network(32, 480) == network(224, 480) == "resnet8"
    assert network(32, 50_000) == "resnet20" and network(224, 50_000) == "resnet50"


def test_what_is_given_wins():
    usual = {"dataset": "imagefolder", **FEW}
    given = {"model": "lenet", "lr": 0.5, "trade_off": 3.0, "deferred": False, "num_draws": 16}
    config = train_config(given, usual=usual)
    assert (config.model, config.lr, config.settings["trade_off"]) == ("lenet", 0.5, 3.0)
    assert (config.settings["deferred"], config.settings["num_draws"]) == (False, 16)
    half = train_config({"epochs": FEW["epochs"] // 2}, usual=usual)
    assert half.lr_drops == pytest.approx([drop / 2 for drop in FEW["lr_drops"]], abs=1)


def test_data_sets_of_papers_have_their_own():
    assert not any(spec.training for spec in DATASETS.values() if spec.is_own)
    assert all(spec.training for spec in DATASETS.values() if not spec.is_own)
