import pytest

from rsray.config import TuneConfig
from rsray.data import DATASETS
from rsray.distributed.search.request import OWN_PICTURES, search_defaults
from rsray.presets import train_config
from rsray_cli.tune import tune


@pytest.mark.parametrize(
    ("dataset", "skip"),
    [
        ("digits", 5),
        ("mnist", 20),
        ("fashion-mnist", 20),
        ("svhn", 20),
        ("cifar10", 20),
        ("imagenet", 100),
    ],
)
def test_a_test_set_is_certified_in_hours_not_days(dataset, skip):
    train = train_config({"dataset": dataset})
    assert search_defaults(train, 50_000, None, {})["skip"] == skip


def test_what_a_search_starts_from_is_the_data_sets():
    digits = search_defaults(train_config({"dataset": "digits"}), 1347, None, {})
    assert (digits["trials"], digits["n"], digits["compare"]) == (5, 5_000, False)
    assert (digits["trial_epochs"], digits["num_draws"]) == (8, 64)
    for epochs, trial in ((1, 1), (2, 2), (4, 2)):
        short = train_config({"dataset": "digits", "epochs": epochs})
        assert search_defaults(short, 1347, None, {})["trial_epochs"] == trial
    imagenet = train_config({"dataset": "imagenet"})
    assert search_defaults(imagenet, 10**6, None, {})["trial_epochs"] == 30, "a quarter of 120"
    assert "trial_epochs" not in search_defaults(imagenet, 10**6, 7, {})
    assert "trial_epochs" not in search_defaults(imagenet, 10**6, None, {"epochs": "int(1,9)"})
    looks = search_defaults(
        train_config({"dataset": "cifar10"}), 50_000, None, {"epochs": "int(2,8)"}
    )
    assert looks["report_every"] == 1, "of the longest trial, not of the data set's epochs"


def test_the_help_says_from_how_many_draws_trials_are_judged():
    usual = TuneConfig.model_fields["num_draws"].default
    few = {name: spec.search.get("num_draws", usual) for name, spec in DATASETS.items()}
    fewer = {name: draws for name, draws in few.items() if draws != usual}
    assert fewer == {"digits": OWN_PICTURES["num_draws"]}
    text = " ".join(tune.__doc__.split())
    assert f"{usual} draws per image; from {fewer['digits']} for digits and your own" in text
