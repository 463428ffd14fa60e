"""What an image's counts come to, and which images lack some."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rsray.certification.counts.certificate_columns import (
    IncompleteError,
    certificate_columns,
    check_complete,
)
from rsray.certification.counts.gathering import GatheredCounts, StoredDraws
from rsray.certification.counts.store import Selected
from rsray.certification.sampling_plan import SamplingPlan
from rsray.core.evidence import Evidence
from rsray.storage.schemas import CERTIFICATES

PLAN = SamplingPlan(n0=10, n=130, block_size=40)


@pytest.fixture
def verdict():
    """Six images: sure, wrong, torn, missed at selection, no selection draws, tied selection."""
    selected = Selected(np.array([2, 5, 8, 11, 14, 17]), np.array([0, 0, 0, 0, 0, 1]))
    selection = np.array([[10, 0, 0], [0, 10, 0], [9, 1, 0], [1, 9, 0], [0, 0, 0], [5, 5, 0]])
    estimated = np.array([[130, 0, 0], [5, 125, 0], [65, 65, 0], [0, 0, 0], [0, 0, 0], [125, 5, 0]])

    def columns(sampling):
        plan = replace(PLAN, sampling=sampling, sigma=0.5, alpha=0.01)
        return certificate_columns(selected, Evidence.of_counts(selection, estimated), plan)

    return columns


def radius(hits):
    return 0.5 * stats.norm.ppf(stats.beta.ppf(0.01, hits, 130 - hits + 1))


def test_columns_by_hand(verdict):
    columns = verdict("skip")
    assert list(columns) == CERTIFICATES.names
    assert columns["index"].tolist() == [2, 5, 8, 11, 14, 17]
    assert columns["label"].tolist() == [0, 0, 0, 0, 0, 1] and columns["label"].dtype == np.int32
    assert columns["prediction"].tolist() == [0, 1, -1, -1, -1, 0]
    assert columns["correct"].tolist() == [True, False, False, False, False, False]
    want = [radius(130), radius(125), 0, 0, 0, radius(125)]
    np.testing.assert_allclose(columns["radius"], want, rtol=1e-9)
    assert columns["count_a"].tolist() == [130, 125, 65, 0, 0, 125]
    assert columns["n0"].tolist() == [10, 10, 10, 10, 0, 10]
    assert columns["n"].tolist() == [130, 130, 130, 0, 0, 130]
    lower = stats.beta.ppf(0.01, [130, 125, 65], [1, 6, 66])
    np.testing.assert_allclose(columns["p_a_lower"][:3], lower, rtol=1e-9)
    np.testing.assert_allclose(columns["p_b_upper"], 1 - columns["p_a_lower"], rtol=1e-12)
    # Class 1 was selected for 5 and 11 and class 0 for 17 (the tie), against their labels.
    assert columns["skipped"].tolist() == [False, True, False, True, False, True]


def test_nothing_is_skipped_with_fixed_sampling(verdict):
    columns = verdict("fixed")
    assert not columns["skipped"].any()
    for name, values in verdict("skip").items():
        if name != "skipped":
            assert np.array_equal(values, columns[name])


def state(sampling):
    """Images 0..4 of label 0, all stored; image 3 was selected as class 1."""
    selected, classes = Selected(np.arange(5) * 10, np.zeros(5, int)), np.array([0, 0, 0, 1, 0])
    wanted = replace(PLAN, sampling=sampling).wanted_blocks(selected.labels, classes, np.zeros(5))
    no_pairs = np.zeros(5, bool)
    return selected, StoredDraws(np.ones(5, bool), np.ones((5, 4), bool), classes, wanted, no_pairs)


def test_complete_runs_pass():
    for sampling in ("fixed", "skip"):
        check_complete(*state(sampling), {})


def test_missing_images_are_named():
    def lacking(sampling):
        selected, stored = state(sampling)
        stored.estimation_NT[1, 2] = False
        stored.estimation_NT[3] = False
        stored.selection_N[4], stored.selected_class_N[4] = False, -1
        return selected, stored

    with pytest.raises(IncompleteError, match="draws of 3 images are missing: 10, 30, 40$"):
        check_complete(*lacking("fixed"), {})
    with pytest.raises(IncompleteError, match="draws of 2 images are missing: 10, 40$"):
        check_complete(*lacking("skip"), {})  # 30 missed its label: nothing is owed
    with pytest.raises(IncompleteError, match="draws of 1 images are missing: 40$"):
        check_complete(*lacking("skip"), {10: "cannot be read"})
    check_complete(*lacking("skip"), {10: "cannot be read", 40: "NaN"})


def test_many_missing_images_are_not_all_named():
    selected = Selected(np.arange(25), np.zeros(25, int))
    with pytest.raises(
        IncompleteError, match=r"draws of 25 images are missing: 0, 1, .*, 9 \.\.\.$"
    ):
        check_complete(selected, GatheredCounts(selected, PLAN).stored_draws(), {})
