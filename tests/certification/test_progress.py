"""The running figures end where the certificates do."""

import numpy as np
import pytest

from rsray.certification.folder import finish
from rsray.certification.progress import Progress


def running(run):
    return Progress(run.gathered())


@pytest.mark.parametrize("sampling", ["fixed", "skip"])
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_the_last_snapshot_is_the_summary(small_run, sampling, order):
    run = small_run(sampling=sampling)
    watch = running(run)
    items = run.items(blocks_per_item=1)
    steps = {"forward": items, "backward": items[::-1]}
    steps["shuffled"] = [items[k] for k in np.random.default_rng(0).permutation(len(items))]
    for rows in run.tables(steps[order]):
        watch.add(rows)
    run.count(items)
    summary = finish(run.claimed, run.gathered(), seconds=1.0, failed={})
    last = watch.snapshot(summary["draws"], 0.0)
    assert last["acr"] == pytest.approx(summary["acr"], rel=1e-12) and last["acr"] > 0
    assert last["acr_standard_error"] == pytest.approx(summary["acr_standard_error"], rel=1e-9)
    assert last["images_done"] == last["images"] == last["images_scored"] == 12
    assert last["draws"] == summary["draws"] and last["seconds_left"] == 0
    assert not watch.gathered._early and not watch.gathered._others  # only of images in flight


def test_figures_grow_as_rows_arrive(small_run):
    run = small_run()
    watch = running(run)
    first = watch.snapshot(1000, 0.0)
    assert (
        first["images_done"] == 0 and first["acr"] is None and first["acr_standard_error"] is None
    )
    assert first["seconds_left"] is None
    seen = []
    for rows in run.tables(run.items(blocks_per_item=1)):
        watch.add(rows)
        seen.append(watch.snapshot(12 * 140, 5.0))
    assert [each["images_done"] for each in seen] == [k // 4 for k in range(1, 49)]
    assert [each["draws"] for each in seen[:4]] == [50, 90, 130, 140]
    assert seen[3]["acr"] is not None and seen[3]["acr_standard_error"] is None
    assert not watch.gathered._early
    for each in seen:
        assert each["seconds"] > 5 and each["draws_per_second"] > 0
        left = (12 * 140 - each["draws"]) / each["draws_per_second"]
        assert each["seconds_left"] == pytest.approx(left)


@pytest.mark.parametrize("sampling", ["fixed", "skip"])
@pytest.mark.parametrize("before", [0, 1, 5, 11, 17, 24, 47, 48])
def test_a_resumed_run(small_run, sampling, before):
    run = small_run(sampling=sampling)
    items = run.items(blocks_per_item=1)
    run.count(items[:before])
    done = run.gathered().stored_draws()
    watch = running(run)
    earlier = watch.snapshot(0, 60.0)
    missed = np.isin(np.arange(12), np.flatnonzero(done.selected_class_N != run.selected.labels))
    whole = done.estimation_NT.all(axis=1) | (missed & (sampling == "skip"))
    assert earlier["images_done"] == (done.selection_N & whole).sum()
    assert earlier["acr"] is None and earlier["draws"] == 0
    assert earlier["seconds"] == 60  # a start that draws nothing took no time
    fresh = ~done.selection_N & ~done.estimation_NT.any(axis=1)
    for rows in run.tables(run.items(blocks_per_item=2)):
        watch.add(rows)
    last = watch.snapshot(0, 60.0)
    assert last["images_done"] == 12 and not watch.gathered._early
    assert (last["seconds"] > 60) == (last["draws"] > 0)
    assert last["images_scored"] == fresh.sum()  # the others' counts are in the store alone
    assert last["seconds_left"] in (0, None)
    run.count()
    finish(run.claimed, run.gathered(), seconds=1.0, failed={})


def test_the_acr_of_a_resumed_run_is_that_of_its_fresh_images(small_run):
    run = small_run()
    items = run.items(blocks_per_item=4)  # one per image
    run.count(items[:5])
    watch = running(run)
    for rows in run.tables(items[5:]):
        watch.add(rows)
    run.count(items[5:])
    finish(run.claimed, run.gathered(), seconds=1.0, failed={})
    from rsray.results.certificates import read_certificates

    table = read_certificates(f"{run.where}/certificates.parquet")
    want = (table.radius * table.correct)[5:].mean()
    assert watch.snapshot(0, 0.0)["acr"] == pytest.approx(want, rel=1e-12)


def test_time_left_follows_what_images_came_to(small_run):
    """Where most images want less than n, what is owed at most says little."""
    run = small_run(sampling="adaptive")
    watch = Progress(run.gathered())
    watch.draws_made, watch._scored, watch.images_done = 100, 10, 10
    last = watch.snapshot(100_000, 0.0)
    assert last["seconds_left"] * last["draws_per_second"] == pytest.approx(2 * 10)
    watch._scored = 3  # too few to tell
    last = watch.snapshot(100_000, 0.0)
    assert last["seconds_left"] * last["draws_per_second"] == pytest.approx(99_900)
