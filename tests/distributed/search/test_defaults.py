import pytest

from rsray.distributed.search.defaults import search_defaults
from rsray.presets import train_config


@pytest.mark.parametrize(
    ("dataset", "skip"),
    [("digits", 1), ("mnist", 20), ("svhn", 20), ("cifar10", 20), ("imagenet", 100)],
)
def test_a_test_set_is_certified_in_hours_not_days(dataset, skip):
    train = train_config({"dataset": dataset})
    assert search_defaults(train, 50_000, None, {})["skip"] == skip
