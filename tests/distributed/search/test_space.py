"""Search spaces: what their texts mean, and what a point of one says."""

import pytest

from rsray.distributed.search.space import (
    active,
    grid_points,
    holds_value,
    parse_grid,
    parse_space,
    point_of,
    read_space,
    settings_of,
)
from rsray.errors import UserError
from rsray.presets import train_config


def test_search_specs():
    space = read_space(
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
    assert point_of(space, {**point, "model": "lenet"}) == point
    assert all(holds_value(space[key], value) for key, value in point.items())
    assert not holds_value(space["num_draws"], 16) and not holds_value(space["lr"], None)


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
    space = read_space(parse_grid(["lr_drops=[10,20],[20],[]"], "macer"))
    config = train_config({"dataset": "mnist"})
    lists = [settings_of(point, config)["lr_drops"] for point in grid_points(space)]
    assert lists == [[10, 20], [20], []]
    with pytest.raises(UserError, match="twice"):
        parse_grid(["lr_drops=[10,20],[10,20]"], "macer")
    assert point_of(space, config.model_dump()) == {"lr_drops": "[10, 20]"}
    assert holds_value(space["lr_drops"], (10, 20)) and not holds_value(space["lr_drops"], [10])


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


def test_the_objective_may_be_searched_and_settings_of_some():
    texts = ["objective=choice(macer,smoothadv,gaussian)", "lr=log(0.01,0.1)", "num_steps=int(1,4)",
             "macer.trade_off=log(1,32)", "num_draws=choice(1,2)"]  # fmt: skip
    space = read_space(parse_space(texts, "macer"))
    assert list(active(space, "macer")) == ["objective", "lr", "macer.trade_off", "num_draws"]
    assert list(active(space, "smoothadv")) == ["objective", "lr", "num_steps", "num_draws"]
    assert list(active(space, "gaussian")) == ["objective", "lr", "num_draws"]
    point = {"objective": "macer", "macer.trade_off": 2.0, "lr": 0.02}
    assert settings_of(point, train_config({"dataset": "digits"})) == {
        "objective": "macer", "trade_off": 2.0, "lr": 0.02,
    }  # fmt: skip
    settings = {"objective": "macer", "trade_off": 3.0, "lr": 0.05, "num_draws": 2, "num_steps": 1}
    assert point_of(space, settings) == {
        "objective": "macer", "lr": 0.05, "macer.trade_off": 3.0, "num_draws": 2,
    }  # fmt: skip


def test_objectives_alone_have_the_default_space_of_each():
    space = parse_space(["objective=choice(macer,gaussian)"], "macer", ["lr", "hinge"])
    assert list(space) == [
        "objective", "macer.trade_off", "macer.inverse_temperature", "gaussian.weight_decay",
    ]  # fmt: skip
    grid = parse_grid(["objective=macer,gaussian", "macer.trade_off=1,2"], "macer")
    assert grid_points(read_space(grid)) == [
        {"objective": "macer", "macer.trade_off": 1},
        {"objective": "macer", "macer.trade_off": 2},
        {"objective": "gaussian"},
    ]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["objective=choice(macer,denoise)"], "denoise trains no classifier"),
        (["objective=choice(macer,maser)"], "maser"),
        (["objective=int(1,2)"], r"give choice\(macer"),
        (["objective=choice(macer,gaussian)", "rho=uniform(0,1)"], "unknown"),
        (["objective=choice(macer,gaussian)", "sodm.rho=uniform(0,1)"], "before the dot"),
        (["objective=choice(macer,gaussian)", "gaussian.hinge=log(1,2)"], "unknown"),
        (["objective=choice(macer,gaussian)", "macer.epochs=int(1,2)"], "before the dot"),
        (["objective=choice(macer,gaussian)", "macer.seed=int(1,2)"], "all trials share it"),
        (["objective=choice(macer,gaussian)", "hinge=log(1,2)", "macer.hinge=log(1,2)"], "twice"),
        (["smoothadv.epsilon=log(1,2)"], "before the dot"),
    ],
)
def test_searches_over_objectives_that_are_refused(texts, words):
    with pytest.raises(UserError, match=words):
        parse_space(texts, "macer")


def test_epochs_may_be_searched():
    base = train_config({"dataset": "digits"})  # 16 epochs, drops at 4 and 14
    assert settings_of({"epochs": 40}, base)["lr_drops"] == (10, 35)
    assert settings_of({"epochs": 40, "lr_drops": "[7]"}, base)["lr_drops"] == [7]
    assert settings_of({"hinge": 4.0}, base) == {"hinge": 4.0}


def test_a_grid_of_more_cells_than_anybody_can_try_is_refused():
    values = ",".join(map(str, range(1, 400)))
    grid = parse_grid([f"{key}={values}" for key in ("trade_off", "hinge", "num_draws")], "macer")
    with pytest.raises(UserError, match="more than 100,000 cells"):
        grid_points(read_space(grid))
