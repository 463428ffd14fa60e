import numpy as np
import pytest

from rsray.results.sanity import (
    certificates_warning,
    has_learnt,
    predictions_warning,
    search_warning,
    training_warning,
)

# Labels of 200 images
ANY = np.arange(200) % 10


@pytest.mark.parametrize(
    ("accuracy", "classes", "warns"), [(0.12, 10, True), (0.13, 10, False), (0.6, 2, True)]
)
def test_training_at_chance_is_said(accuracy, classes, warns):
    said = training_warning(accuracy, classes)
    assert (said is not None) == warns and (said is None or "try more epochs" in said)


def test_classes_that_training_has_dropped_are_said():
    said = training_warning(0.99, 10, classes_dropped=2)
    assert said.startswith("the objective has dropped all images of 2 of 10 classes")


def test_a_constant_predictor_and_an_acr_of_0_are_said():
    rng = np.random.default_rng(0)
    assert certificates_warning(rng.integers(0, 10, 200), ANY, 0.3) is None
    constant = np.where(np.arange(200) < 194, 7, 3)
    assert "97% of the predictions are class 7" in certificates_warning(constant, ANY, 0.1)
    abstaining = np.concatenate([constant, np.full(300, -1)])
    # Abstentions are no predictions; few images say nothing where they may be of one class.
    assert "are class 7" in certificates_warning(abstaining, np.tile(ANY, 3)[:500], 0.1)
    assert certificates_warning(np.zeros(10, dtype=int), np.zeros(10), 0.1) is None
    assert "the ACR is 0" in certificates_warning(np.full(10, -1), np.zeros(10), 0.0)
    assert certificates_warning(np.array([], dtype=int), np.array([]), 0.0) is None


def test_few_predictions_of_one_class_are_said_where_most_are_wrong():
    labels = np.arange(20) % 10
    said = predictions_warning(np.full(20, 3), labels, {3: "cat"})
    assert said.startswith("100% of the predictions are class 3 (cat)")
    assert predictions_warning(np.full(20, 3), np.full(20, 3)) is None, "images of one class"
    assert predictions_warning(np.full(7, 3), labels[:7]) is None
    assert predictions_warning(np.where(labels < 5, 3, -1)[:10], labels[:10]) is None, "5 of 10"
    assert predictions_warning(labels, labels) is None


@pytest.mark.parametrize(
    ("right", "images", "learnt"),
    [
        ([10, 0, 0], [10, 10, 10], False),
        # A constant network is right nine times of ten here, and knows nothing.
        ([90, 0], [90, 10], False),
        ([80, 5], [90, 10], True),
        ([4, 4, 3], [10, 10, 10], False),
        ([5, 5, 4], [10, 10, 10], True),
        # A class without images says nothing.
        ([9, 0, 1], [10, 0, 10], False),
        ([9, 0, 5], [10, 0, 10], True),
    ],
)
def test_always_naming_one_class_is_not_learning(right, images, learnt):
    assert has_learnt(right, images) == learnt


def test_the_class_of_a_constant_predictor_is_named():
    constant = np.full(200, 1)
    said = certificates_warning(constant, ANY, 0.1, ("cat", "dog"))
    assert "class 1 (dog)" in said
    assert "class 1:" in certificates_warning(constant, ANY, 0.1, ("0", "1"))


def test_a_search_that_learnt_nothing_is_said():
    assert "no complete trial" in search_warning([0.0])
    assert "no complete trial" in search_warning([0.0, 0.0])
    assert search_warning([]) is None and search_warning([0.0, 0.2]) is None


def test_trials_that_tie_are_said():
    assert search_warning([0.1, 0.2]) is None and search_warning([0.18]) is None
    assert "all 3 complete trials tie" in search_warning([0.18, 0.18, 0.1805])
