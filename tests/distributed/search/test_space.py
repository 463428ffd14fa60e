"""Search spaces, and which points are tried first."""

import pytest

from rsray.config import TuneConfig
from rsray.distributed.search.space import (
    distributions,
    first_point,
    grid_points,
    most_epochs,
    parse_grid,
    parse_space,
    settings_of,
    start_points,
    why_untried,
)
from rsray.errors import UserError
from rsray.presets import presets, search_config, train_config

PUBLISHED = {
    (entry.settings["dataset"], entry.settings["objective"], entry.settings["sigma"]): name
    for name, entry in reversed(presets().items())
    if entry.is_published
}


def test_search_specs():
    space = distributions(
        parse_space(
            [
                "lr=log(1e-3,1e-1)",
                "num_draws=choice(4,8)",
                "hinge=uniform(4,12)",
                "epochs=int(1,3)",
            ],
            "macer",
        )
    )
    assert (space["lr"].low, space["lr"].high, space["lr"].log) == (1e-3, 1e-1, True)
    assert space["num_draws"].choices == (4, 8)
    assert (space["hinge"].low, space["hinge"].log) == (4.0, False)
    assert (space["epochs"].low, space["epochs"].high) == (1, 3)
    point = {"lr": 0.01, "num_draws": 8, "hinge": 8.0, "epochs": 2}
    assert first_point(space, point) == point
    assert first_point(space, {**point, "num_draws": 16}) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lr", "key=SPEC"), ("lr=log(1)", "SPEC is one of"), ("lr=log(0.1,0.01)", "SPEC is one of"),
        ("lr=gauss(0,1)", "cannot be read"), ("nosuch=log(1,2)", "unknown"),
        ("epochs=int(1,inf)", "finite"), ("lr=uniform(0.1,inf)", "finite"),
        ("epochs=int(1.5,3.7)", "whole numbers"),
    ],
)  # fmt: skip
def test_specs_that_are_refused(spec, words):
    with pytest.raises(UserError, match=words):
        parse_space([spec], "macer")


def test_grids():
    assert parse_grid(["trade_off=1,4", "num_draws=8"], "macer") == {
        "trade_off": "choice(1,4)", "num_draws": "choice(8)",
    }  # fmt: skip
    for bad in ("trade_off", "trade_off=", "nosuch=1,2", "trade_off=1,1", "trade_off=1,,2"):
        with pytest.raises(UserError):
            parse_grid([bad], "macer")


def test_a_grid_of_lists():
    space = distributions(parse_grid(["lr_drops=[10,20],[20],[]"], "macer"))
    config = train_config({"dataset": "mnist"})
    lists = [settings_of(point, config)["lr_drops"] for point in grid_points(space)]
    assert lists == [[10, 20], [20], []]
    with pytest.raises(UserError, match="twice"):
        parse_grid(["lr_drops=[10,20],[10,20]"], "macer")
    assert start_points(space, config) == {"start": {"lr_drops": "[10, 20]"}}


def test_what_trials_share_is_not_searched_nor_what_is_given_or_named_twice():
    for key in ("validation", "seed", "limit", "dataset", "data_root", "workers", "sigma"):
        for parse, text in ((parse_space, f"{key}=choice(1,2)"), (parse_grid, f"{key}=1,2")):
            with pytest.raises(UserError, match=f"{key}: all trials share it"):
                parse([text], "macer")
    for parse, texts in (
        (parse_space, ["lr=log(1,2)", "lr=log(1,3)"]),
        (parse_grid, ["lr=1", "lr=2"]),
    ):
        with pytest.raises(UserError, match="names lr twice"):
            parse(texts, "macer")
        with pytest.raises(UserError, match="lr is both given and varied"):
            parse(texts[:1], "macer", {"lr": 1.0})
    assert list(parse_space([], "macer", ["trade_off"])) == ["hinge", "inverse_temperature"]
    with pytest.raises(UserError, match="nothing is left to search: epsilon is given"):
        parse_space([], "smoothadv", ["epsilon"])


@pytest.mark.parametrize("about", PUBLISHED, ids=PUBLISHED.values())
def test_the_first_trial_is_all_of_the_published_setting(about):
    dataset, objective, sigma = about
    ours = search_config({"dataset": dataset, "objective": objective, "sigma": sigma})
    paper = train_config({"epochs": ours.epochs}, preset_name=PUBLISHED[about])
    assert ours.identity() == paper.identity()
    space = distributions(parse_space([], objective))
    settings = {**paper.model_dump(), **paper.settings}
    assert start_points(space, ours) == {"paper": {key: settings[key] for key in space}}


def test_a_setting_is_published_for_its_data_objective_and_sigma_only():
    space = distributions(parse_space([], "macer"))
    imagenet = start_points(space, train_config({"dataset": "imagenet", "sigma": 0.5}))
    assert imagenet["paper"]["trade_off"] == 3.0 and imagenet["start"]["trade_off"] == 6.0
    named = train_config({"sigma": 0.5}, preset_name="macer-cifar10-0.25")
    assert start_points(space, named)["paper"]["trade_off"] == 4.0
    assert start_points(space, named)["start"]["trade_off"] == 12.0
    named = train_config({}, preset_name="macer-cifar10-0.50-lambda8")
    assert start_points(space, named) == {"paper": {**imagenet["paper"], "trade_off": 8.0}}
    for flat in ({"dataset": "mnist", "sigma": 0.3}, {"dataset": "digits"}):
        assert list(start_points(space, search_config(flat))) == ["start"]
    far = train_config({"dataset": "digits", "trade_off": 100.0})
    assert not start_points(space, far)  # the space does not hold 100


def test_why_the_published_setting_is_no_trial():
    space = distributions(parse_space(["num_draws=choice(4,8)"], "macer"))
    reason = "its num_draws is 16, which the search does not hold"
    assert why_untried(space, search_config({"dataset": "mnist"})) == reason
    assert start_points(space, search_config({"dataset": "mnist"})) == {}
    space = distributions(parse_space(["num_draws=choice(4,16)"], "macer"))
    config = search_config({"dataset": "mnist", "trade_off": 1.0})
    assert why_untried(space, config) == "its trade_off is 16.0, here it is 1.0"
    assert start_points(space, config) == {"start": {"num_draws": 16}}
    for free in ({"epochs": 3}, {"batch_size": 32}, {"model": "resnet20"}, {"limit": 100}):
        assert not why_untried(space, search_config({"dataset": "mnist", **free}))
    assert not why_untried(space, search_config({"dataset": "mnist", "sigma": 0.3}))


def test_epochs_may_be_searched():
    base = train_config({"dataset": "digits"})  # 16 epochs, drops at 4 and 14
    assert settings_of({"epochs": 40}, base)["lr_drops"] == (10, 35)
    assert settings_of({"epochs": 40, "lr_drops": "[7]"}, base)["lr_drops"] == [7]
    assert settings_of({"hinge": 4.0}, base) == {"hinge": 4.0}
    for spec, most in (("int(4,64)", 64), ("choice(8,32)", 32)):
        config = TuneConfig.make({"train": base, "search": {"epochs": spec}})
        assert most_epochs(config) == most
    config = TuneConfig.make({"train": base, "search": {"lr": "log(1,2)"}, "trial_epochs": 8})
    assert most_epochs(config) == 8
