import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import norm

from rsray.results.summary import largest_certifiable_radius, summarise, write_summary

EXTRA = {"seconds": 2.0, "indices": {"start": 0, "skip": 1, "limit": 40}}


def test_summary_against_plain_loops(make):
    result = make()
    rows = list(zip(result.radius, result.correct, result.prediction, strict=True))
    summary = summarise(result, extra=EXTRA)
    assert summary["num_images"] == 40
    assert summary["acr"] == pytest.approx(sum(r for r, c, _ in rows if c) / 40, abs=1e-15)
    assert summary["abstained"] == sum(p == -1 for *_, p in rows) > 0
    assert summary["clean_accuracy"] == sum(bool(c) for _, c, _ in rows) / 40
    assert summary["draws"] == 40 * 1100 and summary["draws_per_second"] == 22_000
    assert summary["indices"] == EXTRA["indices"] and summary["sigma"] == 0.5
    # sigma 0.5, n 1000, alpha 0.001: nothing above 1.231 can be certified.
    assert list(summary["certified_accuracy"]) == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    for r, fraction in summary["certified_accuracy"].items():
        assert fraction == sum(bool(c) and x >= float(r) for x, c, _ in rows) / 40


def test_largest_radius_and_the_end_of_the_list(make):
    assert largest_certifiable_radius(make()) == pytest.approx(0.5 * norm.ppf(0.001**0.001))
    wide = summarise(make(sigma=2.0, n=10**6), extra=EXTRA)["certified_accuracy"]
    assert len(wide) == 17 and list(wide)[-1] == "4.00"
    unknown = make(alpha=None)
    assert largest_certifiable_radius(unknown) == unknown.radius.max()


def test_skipped_images_are_not_abstentions(make):
    result = make()
    result = dataclasses.replace(result, skipped=result.prediction == -1)
    summary = summarise(result, extra=EXTRA)
    assert summary["abstained"] == 0 and summary["skipped"] == int(result.skipped.sum())


def test_extra_wins(make):
    summary = summarise(make(**EXTRA), extra={"draws": 5, "seconds": None})
    assert summary["draws"] == 5 and summary["draws_per_second"] is None


def test_summary_is_json(tmp_path, make):
    one = dataclasses.replace(
        make(), **{name: column[:1] for name, column in make().columns().items()}
    )
    write_summary(tmp_path / "summary.json", summarise(one, extra=EXTRA))
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["acr_standard_error"] is None and np.isfinite(again["acr"])


def test_a_failed_image_counts_nothing_and_is_named(make, without):
    whole = make()
    image = int(whole.index[whole.correct][0])
    summary = summarise(without(whole, image), extra=EXTRA)
    kept = whole.correct & (whole.index != image)
    assert (summary["num_images"], summary["num_selected"]) == (39, 40)
    assert summary["failed"] == {str(image): "OSError: damaged"}
    assert summary["acr"] == pytest.approx(whole.radius[kept].sum() / 40, abs=1e-15)
    assert summary["clean_accuracy"] == summary["certified_accuracy"]["0.00"] == kept.sum() / 40
    assert summarise(whole, extra=EXTRA)["failed"] == {}
