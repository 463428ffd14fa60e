"""Configurations: what is refused and in which words, what overrides what, and the way to YAML."""

import dataclasses
import math

import pytest

from rsray.config import (
    CertifyConfig,
    TrainConfig,
    TuneConfig,
    nest,
    objective_fields,
    scaled_drops,
)
from rsray.data import DATASETS
from rsray.distributed.search.request import search_defaults
from rsray.errors import UserError
from rsray.family import choose
from rsray.given_values import parse_assignments
from rsray.objectives import OBJECTIVES
from rsray.presets import preset, presets, search_config, train_config
from rsray.storage.yaml_files import from_yaml, to_yaml

CERTIFY = {
    "source": "run", "model_digest": "0" * 64, "dataset": "digits", "model": "lenet",
    "num_classes": 10, "sigma": 0.25,
}  # fmt: skip


def refusal(call, *arguments, **keywords):
    """Return the message with which the call refuses its arguments: a UserError of one line."""
    with pytest.raises(UserError) as refused:
        call(*arguments, **keywords)
    message = str(refused.value)
    assert message and "\n" not in message and "pydantic" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=1e-3", 1e-3), ("lr=1E3", 1000.0), ("lr=-2.5e-4", -2.5e-4), ("lr=.5", 0.5), ("lr=3", 3),
        ("lr=0.05", 0.05), ("lr_drops=[30, 60]", [30, 60]), ("lr_drops=[]", []),
        ("deferred=true", True), ("deferred=False", False), ("deferred=no", False),
        ("limit=null", None), ("limit=", None), ("model=resnet20", "resnet20"),
        ("model=my.net:make", "my.net:make"), ("data_root=a=b", "a=b"), (" attack =ddn", "ddn"),
    ],
)  # fmt: skip
def test_set_reads_values(text, value):
    (parsed,) = parse_assignments([text]).values()
    assert parsed == value and type(parsed) is type(value)


def test_set_later_wins():
    assert parse_assignments(["lr=1", "hinge=2", "lr=3"]) == {"lr": 3, "hinge": 2}


@pytest.mark.parametrize("text", ["x", "", "=3", " =3", "a={", "a=[1", "a='"])
def test_set_refuses(text):
    assert repr(text) in refusal(parse_assignments, [text])


def test_unknown_setting_gets_a_hint():
    message = refusal(train_config, {"dataset": "digits", "tradeoff": 1})
    assert (
        "'tradeoff'" in message
        and "did you mean trade_off?" in message
        and "inverse_temperature" in message
    )
    assert "did you mean epochs?" in refusal(train_config, {"dataset": "digits", "epoch": 1})
    # known, but of another objective
    message = refusal(train_config, {"dataset": "digits", "objective": "gaussian", "hinge": 8})
    assert "'hinge'" in message and "gaussian" in message


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"sigma": 0}, "sigma is 0"), ({"sigma": -1}, "sigma is -1"), ({"sigma": "big"}, "sigma is 'big'"),
        ({"sigma": math.nan}, "sigma is nan"), ({"sigma": math.inf}, "sigma is inf"),
        ({"epochs": 0}, "epochs is 0"), ({"epochs": 1.5}, "epochs is 1.5"), ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": 0}, "lr is 0"), ({"lr": None}, "lr is None"), ({"momentum": 1}, "momentum is 1"),
        ({"weight_decay": -1}, "weight_decay is -1"), ({"lr_drops": 5}, "lr_drops is 5"),
        ({"lr_drops": [0]}, "lr_drops.0 is 0"), ({"lr_decay": 0}, "lr_decay is 0"), ({"lr_decay": 2}, "lr_decay is 2"),
        ({"optimizer": "lion"}, "optimizer 'lion' is unknown"), ({"lr_schedule": "steps"}, "lr_schedule 'steps' is unknown"),
        ({"lr_warm_up": -1}, "lr_warm_up is -1"), ({"label_smoothing": 1}, "label_smoothing is 1"),
        ({"objective": "sodm", "label_smoothing": 0.1}, "label_smoothing must be 0, got 0.1"),
        ({"validation": 1}, "validation is 1"), ({"limit": 0}, "limit is 0"), ({"seed": -1}, "seed is -1"),
        ({"workers": -1}, "workers is -1"), ({"gpus_per_worker": -1}, "gpus_per_worker is -1"),
        ({"image_size": 0}, "image_size is 0"), ({"model": 3}, "model is 3"),
        ({"trade_off": -1}, "trade_off must be at least 0, got -1"), ({"trade_off": "much"}, "'much'"),
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"), ({"hinge": 0}, "hinge must be greater than 0"),
        ({"objective": "maser"}, "'maser'"), ({"objective": "smoothadv", "attack": "fgsm"}, "'fgsm'"),
    ],
)  # fmt: skip
def test_train_refuses(flat, words):
    assert words in refusal(train_config, {"dataset": "digits", **flat})


def test_fields_are_frozen_and_unknown_keys_refused():
    config = TrainConfig.make({"dataset": "digits"})
    with pytest.raises(ValueError, match="frozen"):
        config.sigma = 1.0
    assert "foo is not a known setting" in refusal(
        TrainConfig.make, {"dataset": "digits", "foo": 1}
    )
    assert "dataset is missing" in refusal(TrainConfig.make, {})
    message = refusal(TrainConfig.make, {"dataset": "digits", "settings": {"hing": 8}})
    assert "'hing'" in message and "did you mean hinge?" in message


def test_settings_reach_the_objective():
    config = train_config({"dataset": "digits", "sigma": 0.5, "hinge": 4, "num_draws": 3})
    objective = config.build_objective()
    assert (objective.sigma, objective.hinge, objective.num_draws) == (0.5, 4.0, 3)
    assert config.settings["hinge"] == 4.0 and set(config.settings) == set(
        objective_fields("macer")
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_resolved_spells_out_every_setting(name):
    config = train_config({"dataset": "digits", "objective": name})
    fields = {field.name for field in dataclasses.fields(OBJECTIVES[name])}
    fields -= {"sigma", "label_smoothing"}
    assert set(config.settings) == fields
    assert config.resolved() == config
    assert config.build_objective() == TrainConfig.make(config.model_dump()).build_objective()


def test_precedence_of_flat_over_preset_over_defaults():
    preset = train_config({}, preset_name="macer-cifar10-0.50")
    assert (preset.settings["trade_off"], preset.sigma) == (4.0, 0.5)
    config = train_config({"trade_off": 1.0, "batch_size": 8}, preset_name="macer-cifar10-0.50")
    assert (config.settings["trade_off"], config.batch_size, config.sigma, config.model) == (
        1.0,
        8,
        0.5,
        "resnet110",
    )
    assert config.preset == "macer-cifar10-0.50"
    plain = train_config({"dataset": "mnist"})
    assert (plain.epochs, plain.lr_drops, plain.settings["trade_off"]) == (30, (10, 20), 16.0)
    assert train_config({"dataset": "mnist", "lr": 0.5}).lr == 0.5
    base = {"dataset": "mnist", "lr": 0.2, "sigma": 1.0, "settings": {"hinge": 3.0}}
    config = train_config({"sigma": 0.5}, base=base)
    assert (config.lr, config.sigma, config.settings["hinge"], config.epochs) == (0.2, 0.5, 3.0, 30)
    assert base["sigma"] == 1.0 and base["settings"] == {"hinge": 3.0}, "the base was changed"


def test_another_objective_drops_the_presets_settings():
    config = train_config({"objective": "gaussian"}, preset_name="macer-digits")
    assert config.settings == {"num_draws": 1} and config.epochs == 16
    config = train_config({"objective": "adre", "num_draws": 4}, preset_name="macer-digits")
    assert config.settings["num_draws"] == 4 and "hinge" not in config.settings
    assert nest({"objective": "macer"}, {"objective": "macer", "settings": {"hinge": 2}})[
        "settings"
    ] == {"hinge": 2}


@pytest.mark.parametrize("dataset", DATASETS)
def test_defaults_build_with_every_objective(dataset):
    for name in OBJECTIVES:
        config = train_config({"dataset": dataset, "objective": name})
        assert config.objective == name and all(drop < config.epochs for drop in config.lr_drops)


@pytest.mark.parametrize("text", ["lr_drops=2,4", "lr_drops=[2,4]", "lr_drops=2, 4"])
def test_drops_are_typed_as_every_list_is(text):
    config = train_config({"dataset": "digits", "epochs": 6, **parse_assignments([text])})
    assert config.lr_drops == (2, 4)


def test_epochs_move_the_drops():
    name = "macer-cifar10-0.25"  # 440 epochs, drops at 200 and 400
    assert train_config({"epochs": 44}, preset_name=name).lr_drops == (20, 40)
    assert train_config({"epochs": 880}, preset_name=name).lr_drops == (400, 800)
    assert train_config({"epochs": 1}, preset_name=name).lr_drops == ()
    assert train_config({"epochs": 44, "lr_drops": [3]}, preset_name=name).lr_drops == (3,)
    assert train_config({}, preset_name=name).lr_drops == (200, 400)
    assert scaled_drops((30, 60), 90, 9) == (3, 6)
    assert scaled_drops((30, 31), 90, 9) == (3,), "drops that fall together are one"
    assert scaled_drops((4, 14), 16, 2) == (1,), "deferred MACER waits for one"
    assert scaled_drops((15,), 16, 4) == (3,)
    assert scaled_drops((15,), 16, 1) == scaled_drops((), 16, 2) == scaled_drops((16,), 16, 8) == ()


def test_epochs_move_the_warm_up():
    name = "smoothadv-mnist-0.50"  # 90 epochs, the first 10 warm up

    def warm_up(**flat):
        return train_config(flat, preset_name=name).settings["warm_up_epochs"]

    assert warm_up() == 10 and warm_up(epochs=45) == 5 and warm_up(epochs=180) == 20
    assert warm_up(epochs=2) == 1, "there was one, so there is one"
    assert warm_up(epochs=9, warm_up_epochs=4) == 4 and warm_up(epochs=9, warm_up_epochs=0) == 0
    # An objective's own default moves too: mnist's schedule is of 30 epochs.
    config = train_config({"dataset": "mnist", "objective": "smoothmix", "epochs": 15})
    assert config.settings["warm_up_epochs"] == 5
    preset_of = preset(name).at_epochs(9)
    assert (preset_of["warm_up_epochs"], preset_of["lr_drops"]) == (1, (3, 6))


def test_epochs_move_the_warm_up_of_the_learning_rate():
    name = "adre-imagenet-0.25-lambda0.1"  # 50 epochs, the first 8 warm up

    def warm_up(**flat):
        return train_config(flat, preset_name=name).lr_warm_up

    assert warm_up() == 8 and warm_up(epochs=25) == 4 and warm_up(epochs=100) == 16
    assert warm_up(epochs=2) == 1 and warm_up(epochs=25, lr_warm_up=3) == 3
    assert warm_up(epochs=25, lr_warm_up=0) == 0
    assert preset(name).at_epochs(25)["lr_warm_up"] == 4


def test_label_smoothing_reaches_the_objective_and_is_no_setting_of_its_own():
    config = train_config({"dataset": "digits", "label_smoothing": 0.1})
    assert config.build_objective().label_smoothing == 0.1 == config.label_smoothing
    assert "label_smoothing" not in config.settings


def test_epochs_move_the_drops_of_a_short_config_file():
    base = {"dataset": "digits", "lr_drops": [4]}  # epochs: those of digits, 16
    assert train_config({"epochs": 8}, base=base).lr_drops == (2,)


SHORT = {"dataset": "cifar10", "objective": "macer", "sigma": 0.25}


@pytest.mark.parametrize(
    "flat",
    [
        SHORT,
        {"dataset": "digits", "trade_off": 2.0, "epochs": 4},
        {"dataset": "digits", "epochs": 32, "lr_drops": [3], "objective": "smoothmix"},
        {"dataset": "imagenet", "objective": "easy", "warm_up_epochs": 2, "lr": 0.3},
    ],
)
@pytest.mark.parametrize("make", [train_config, search_config])
def test_a_short_file_says_what_the_same_options_do(flat, make):
    own = {key: value for key, value in flat.items() if key not in TrainConfig.model_fields}
    base = {key: value for key, value in flat.items() if key not in own} | {"settings": own}
    expected = make(dict(flat))
    assert make({}, base=base) == expected
    rest = {key: value for key, value in base.items() if key != "objective"}
    assert make({"objective": expected.objective}, base=rest) == expected


@pytest.mark.parametrize("make", [train_config, search_config])
def test_a_short_file_that_names_a_preset_has_its_settings(make):
    name, base = "smoothadv-mnist-0.50", {"epochs": 9, "settings": {"epsilon": 0.5}}
    expected = make({"epochs": 9, "epsilon": 0.5}, preset_name=name)
    assert make({}, base={"preset": name, **base}) == expected
    assert (expected.sigma, expected.lr_drops, expected.preset) == (0.5, (3, 6), name)
    with pytest.raises(UserError, match="preset 'macer-digit' is unknown .did you mean macer-dig"):
        make({}, base={"dataset": "digits", "preset": "macer-digit"})
    record = make({}, preset_name="macer-digits").model_dump()
    other = make({"objective": "gaussian"}, base=record)
    assert other.preset is None and other.epochs == record["epochs"]


@pytest.mark.parametrize("name", presets())
def test_a_file_that_says_all_stands_alone(name):
    config = train_config({}, preset_name=name)
    record = config.model_dump(mode="json")
    assert train_config({}, base=record) == search_config({}, base=record) == config
    odd = {**record, "momentum": 0.5, "batch_size": 7, "epochs": 3}
    assert train_config({}, base=odd) == TrainConfig.make(odd).resolved()


@pytest.mark.parametrize(
    ("flat", "expected"),
    [
        ({"dataset": "digits"}, {"deferred": False}),
        ({"dataset": "cifar10", "objective": "easy", "epochs": 30}, {"warm_up_epochs": 0}),
        ({"dataset": "mnist", "objective": "smoothmix"}, {"warm_up_epochs": 0}),
        ({"dataset": "mnist", "objective": "smoothadv"}, {"warm_up_epochs": 0}),
        ({"dataset": "digits", "deferred": True}, {"deferred": True}),
        ({"dataset": "mnist", "objective": "easy", "warm_up_epochs": 5}, {"warm_up_epochs": 5}),
        ({"dataset": "digits", "objective": "gaussian"}, {}),
    ],
)
@pytest.mark.parametrize("make", [train_config, search_config])
def test_what_starts_from_weights_does_not_warm_up(make, flat, expected):
    found = make({**flat, "init": "/run"}).settings
    assert {key: found[key] for key in ("deferred", "warm_up_epochs") if key in found} == expected
    cold = make(dict(flat))
    record = {**cold.model_dump(mode="json"), "init": "/run"}
    assert make({}, base=record).settings == cold.settings, "recorded settings are given"
    own = {key: value for key, value in flat.items() if key in TrainConfig.model_fields}
    short = {**own, "init": "/run", "settings": {k: v for k, v in flat.items() if k not in own}}
    assert make({}, base=short).settings == found


def test_a_preset_warms_up_unless_it_starts_from_weights(monkeypatch):
    name = "easy-mnist-0.25"
    assert train_config({}, preset_name=name).settings["warm_up_epochs"] == 36
    found = train_config({"init": "/run"}, preset_name=name).settings
    assert found["warm_up_epochs"] == 0
    warm = dataclasses.replace(preset(name), settings={**preset(name).settings, "init": "/run"})
    monkeypatch.setattr("rsray.presets.preset", lambda name: warm)
    assert train_config({}, preset_name=name).settings["warm_up_epochs"] == 36


def test_a_short_file_names_its_own_mistakes():
    for base, words in (
        ({**SHORT, "settings": {"lr": 1.0}}, "objective macer: setting 'lr' is unknown"),
        ({**SHORT, "settings": {"epsilon": 1.0}}, "setting 'epsilon' is unknown"),
        ({**SHORT, "settings": [1]}, "settings is .*must hold key: value"),
    ):
        with pytest.raises(UserError, match=words):
            train_config({}, base=base)


def test_epochs_as_a_float_move_the_drops():
    assert train_config({"dataset": "digits", "epochs": 8.0}).lr_drops == (2, 7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trade_off", math.nan), ("hinge", math.inf), ("trade_off", math.inf),
        ("hinge", "inf"), ("trade_off", "nan"), ("trade_off", 10**400),
    ],
)  # fmt: skip
def test_objective_refuses_what_is_not_finite(key, value):
    assert key in refusal(train_config, {"dataset": "digits", key: value})


def test_objective_that_is_a_list():
    assert "objective" in refusal(train_config, {"dataset": "digits", "objective": [1]})


def test_yaml_round_trip():
    for flat in (
        {"dataset": "digits"},
        {
            "dataset": "mnist",
            "objective": "smoothadv",
            "lr": 1e-5,
            "weight_decay": 1e-20,
            "limit": 7,
        },
        {
            "dataset": "parquet",
            "data_root": "s3://Größe/1e3",
            "model": "my.net:make",
            "objective": "sodm",
        },
        {"dataset": "imagenet", "sigma": 0.1 + 0.2, "precision": "bf16", "gpus_per_worker": 0.5},
    ):
        config = train_config(flat)
        text = to_yaml(config.model_dump(mode="json"))
        again = TrainConfig.make(from_yaml(text, "run.yaml"))
        assert again == config and again.differences(from_yaml(text, "run.yaml")) == []
        assert again.build_objective() == config.build_objective()
        assert b"!!python" not in text


@pytest.mark.parametrize(
    "data", [b"a: [", b"- 1", b"", b"text", b"\xff\xfe\x00", b"a: !!python/object:os.system {}"]
)
def test_bad_yaml(data):
    assert refusal(from_yaml, data, "run.yaml").startswith("run.yaml ")


def test_differences_name_what_decides():
    config = train_config({"dataset": "digits", "sigma": 0.25, "trade_off": 3.0})
    assert config.differences(config.model_dump(mode="json")) == []
    other = train_config({"dataset": "digits", "sigma": 0.5, "trade_off": 3.0})
    assert config.differences(other.model_dump(mode="json")) == ["sigma is 0.25 now but was 0.5"]
    other = train_config({"dataset": "digits", "trade_off": 4.0})
    (line,) = config.differences(other.model_dump(mode="json"))
    assert line.startswith("settings is") and "3.0" in line and "4.0" in line
    where = {"workers": 7, "data_root": "/elsewhere", "gpus_per_worker": 0.5}
    elsewhere = train_config({"dataset": "digits", "trade_off": 3.0, **where})
    assert config.differences(elsewhere.model_dump(mode="json")) == []
    assert not set(where) & set(config.identity()) and "seed" in config.identity()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 9}, "n is 9"), ({"n": 0}, "n is 0"), ({"n0": 0}, "n0 is 0"), ({"alpha": 2}, "alpha is 2"),
        ({"alpha": 0}, "alpha is 0"), ({"alpha": math.nan}, "alpha is nan"), ({"sigma": -0.5}, "sigma is -0.5"),
        ({"bound": "clopper"}, "did you mean clopper-pearson?"), ({"sampling": "skipp"}, "did you mean skip?"),
        ({"num_classes": 1}, "num_classes is 1"), ({"start": -1}, "start is -1"), ({"skip": 0}, "skip is 0"),
        ({"limit": 0}, "limit is 0"), ({"block_size": 0}, "block_size is 0"), ({"actors": 0}, "actors is 0"),
        ({"gpus_per_actor": -1}, "gpus_per_actor is -1"), ({"n1": 3}, "n1 is not a known setting"),
    ],
)  # fmt: skip
def test_certify_refuses(change, words):
    assert words in refusal(CertifyConfig.make, {**CERTIFY, **change})


def test_certify_refuses_exactly_what_can_certify_nothing():
    # All n draws hit: p_A = alpha^(1/n) > 1/2 means n > log2(1/alpha); log2(1000) = 9.97.
    assert CertifyConfig.make({**CERTIFY, "n": 10}).n == 10
    assert "at least 10" in refusal(CertifyConfig.make, {**CERTIFY, "n": 9})
    # alpha = 1/4: two draws give p_A = 1/2 exactly, which certifies nothing.
    assert "at least 3" in refusal(CertifyConfig.make, {**CERTIFY, "n": 2, "alpha": 0.25})
    assert CertifyConfig.make({**CERTIFY, "n": 3, "alpha": 0.25}).alpha == 0.25


def test_the_help_tells_the_defaults_that_are():
    words = {
        name: settings.model_fields[name].json_schema_extra["option"].words
        for settings, name in ((TrainConfig, "batch_size"), (TuneConfig, "report_every"))
    }
    batches = {spec.training.get("batch_size", 64) for spec in DATASETS.values()}
    assert batches == {64, 256} and "data set's or preset's" in words["batch_size"]
    quarter = search_defaults(train_config({"dataset": "digits", "epochs": 32}), 1347, None, {})
    assert quarter["trial_epochs"] == 4 * quarter["report_every"]
    assert "of digits and your own pictures a quarter" in words["report_every"]


def test_certify_defaults_and_identity():
    config = CertifyConfig.make(CERTIFY)
    assert (config.n0, config.n, config.alpha, config.bound) == (
        100,
        100_000,
        0.001,
        "clopper-pearson",
    )
    moved = CertifyConfig.make({**CERTIFY, "source": "elsewhere", "actors": 3, "gpus_per_actor": 1})
    assert moved.identity() == config.identity()
    other = CertifyConfig.make({**CERTIFY, "model_digest": "1" * 64})
    assert [line.split()[0] for line in config.differences(other.identity())] == ["model_digest"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trials": 0}, "trials is 0"), ({"concurrent": 0}, "concurrent is 0"),
        ({"validation": 0}, "validation is 0"), ({"validation": 1}, "validation is 1"),
        ({"num_draws": 0}, "num_draws is 0"), ({"reduction": 1}, "reduction is 1"),
        ({"report_every": 0}, "report_every is 0"), ({"n": 3}, "n is 3"), ({"seed": -1}, "seed is -1"),
        ({"search": ["a"]}, "search is ['a']"), ({"trial": 3}, "trial is not a known setting"),
        ({"train": {"dataset": "digits", "sigma": -1}}, "train.sigma is -1"),
    ],
)  # fmt: skip
def test_tune_refuses(change, words):
    given = {"train": train_config({"dataset": "digits"}), "search": {"trade_off": "log(1,9)"}}
    assert TuneConfig.make(given).trials == 20
    assert words in refusal(TuneConfig.make, {**given, **change})


def test_choose():
    assert choose("b", ["a", "b"], "letter") == "b"
    assert refusal(choose, "smothadv", OBJECTIVES, "objective").startswith(
        "objective 'smothadv' is unknown (did you mean smoothadv?); choose one of gaussian, macer"
    )


def test_earlier_results_are_whole_paths_from_any_folder(monkeypatch, tmp_path):
    """Workers run in another folder, and no shell expands the ~ of --set or of a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = {"dataset": "digits", "objective": "catrs", "model": "lenet", "sigma": 0.25}
    settings = {"teacher": "~/cert"}
    config = TrainConfig.make({**given, "settings": settings, "init": "runs/start"})
    found = {"init": f"{tmp_path}/runs/start", "teacher": f"{tmp_path}/cert"}
    assert config.earlier_results == found
    assert config.resolved().settings["teacher"] == f"{tmp_path}/cert"
    there = config.model_copy(update={"init": None, "settings": {"teacher": "s3://b/cert"}})
    assert there.earlier_results == {"teacher": "s3://b/cert"}
