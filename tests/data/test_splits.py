import numpy as np
import pytest

from rsray.data import selected, subset, train_validation
from rsray.data.splits import MOST_IMAGES, may_be_selected, named_part
from rsray.errors import UserError

LABELS = np.random.default_rng(1).choice(7, size=1003, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.04, 0.01])


@pytest.mark.parametrize("validation", [0.2, 0.013, 100, 1, 0])
def test_train_validation_partitions_and_stratifies(validation):
    train, held = train_validation(LABELS, validation, seed=3)
    count = round(validation * 1003) if isinstance(validation, float) else validation
    assert len(held) == count
    assert train.dtype == held.dtype == np.int64
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(1003))
    assert (np.diff(train) > 0).all() and (np.diff(held) > 0).all()
    share = np.bincount(LABELS[held], minlength=7)
    assert (np.abs(share - np.bincount(LABELS) * count / 1003) < 1).all()


def test_train_validation_depends_on_the_seed_only():
    one, again, other = (train_validation(LABELS, 0.3, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_train_validation_mixes_within_a_class():
    _, held = train_validation(np.zeros(1000, int), 500, seed=0)
    assert 200 < (held < 500).sum() < 300


@pytest.mark.parametrize("validation", [1.0, -0.1, 1003, -1, 1.5])
def test_train_validation_refuses(validation):
    with pytest.raises(UserError, match=f"validation {validation}"):
        train_validation(LABELS, validation, seed=0)


def test_subset():
    whole = subset(50, None, seed=2)
    np.testing.assert_array_equal(np.sort(whole), np.arange(50))
    np.testing.assert_array_equal(subset(50, 20, seed=2), whole[:20])
    np.testing.assert_array_equal(subset(50, 99, seed=2), whole)
    with pytest.raises(UserError, match="limit 0"):
        subset(50, 0, seed=2)


def test_selected():
    np.testing.assert_array_equal(selected(10, 1, 3, None), [1, 4, 7])
    np.testing.assert_array_equal(selected(10, 0, 3, 2), [0, 3])
    np.testing.assert_array_equal(selected(10_000, 0, 20, None), np.arange(500) * 20)
    np.testing.assert_array_equal(selected(10, 0, 1, 4, is_spread=True), [0, 2, 5, 7])
    np.testing.assert_array_equal(
        selected(1000, 0, 100, 5, is_spread=True), [0, 200, 400, 600, 800]
    )
    np.testing.assert_array_equal(selected(10, 0, 1, 40, is_spread=True), range(10))
    for start, skip, limit in [(10, 1, None), (-1, 1, None), (0, 0, None), (0, 1, 0)]:
        with pytest.raises(UserError):
            selected(10, start, skip, limit)


def parts_of(names, labels):
    return {
        split: {names[i] for i in named_part(names, np.asarray(labels), split)}
        for split in ("train", "test")
    }


def test_the_named_part_is_a_fifth_and_every_class_has_test_images():
    names = [f"{k}/{i:04}.png" for k in range(200) for i in range(1 + k % 25)]
    labels = [int(name.split("/")[0]) for name in names]
    parts = parts_of(names, labels)
    assert parts["train"] | parts["test"] == set(names) and not parts["train"] & parts["test"]
    assert 0.17 < len(parts["test"]) / len(names) < 0.25
    tested = {int(name.split("/")[0]) for name in parts["test"]}
    assert tested >= {k for k in range(200) if k % 25 >= 1}


def test_no_trained_image_comes_into_the_test_part_when_others_are_added():
    rng = np.random.default_rng(0)
    names = [f"{k}/{i}.png" for k in range(40) for i in range(6)]
    labels = {name: int(name.split("/")[0]) for name in names}
    known = names[::2]
    before = parts_of(known, [labels[name] for name in known])
    for _ in range(20):
        known = [*known, *rng.choice(sorted(set(names) - set(known)), 4, replace=False).tolist()]
        now = parts_of(known, [labels[name] for name in known])
        assert not before["train"] & now["test"]
        before = now


def test_a_name_in_another_unicode_form_is_in_the_same_part():
    names = [f"caf\u00e9/{i}.png" for i in range(40)]
    other = [name.replace("\u00e9", "e\u0301") for name in names]
    labels = np.zeros(40, int)
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            named_part(names, labels, split), named_part(other, labels, split)
        )


def test_which_images_may_be_selected_is_as_selecting_them():
    rng = np.random.default_rng(0)
    for trial in range(400):
        start, skip, limit = (
            int(rng.integers(low, high)) for low, high in ((0, 9), (1, 5), (1, 12))
        )
        size, is_spread = start + int(rng.integers(1, 60)), bool(trial % 2)
        rule = (start, skip, limit)
        right = selected(size, *rule, is_spread=is_spread)
        assert may_be_selected(right, *rule, is_spread=is_spread)
        moved = np.unique(np.abs(right + rng.integers(-1, 2, len(right)) * skip))
        is_possible = any(
            np.array_equal(selected(n, *rule, is_spread=is_spread), moved)
            for n in range(start + 1, int(moved[-1]) + 20 * skip * limit)
        )
        assert may_be_selected(moved, *rule, is_spread=is_spread) == is_possible
    assert not may_be_selected(
        np.array([5, 5 + MOST_IMAGES]), 5, MOST_IMAGES, None, is_spread=False
    )


def test_a_few_of_many_images_are_judged_at_once():
    few = selected(1_281_167, 0, 1, 3, is_spread=True)
    assert may_be_selected(few, 0, 1, 3, is_spread=True)
    assert not may_be_selected(few + np.array([0, 0, 2]), 0, 1, 3, is_spread=True)
