"""adaptive, at-radius and soft bounds: what is drawn, that it is enough, and that it is reproducible."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rsray.certification.counts.certificate_columns import IncompleteError
from rsray.certification.folder import finish, recorded_evaluation, run_id
from rsray.certification.progress import Progress
from rsray.certification.recertify import default_target, recertify
from rsray.certification.request import open_certification
from rsray.core.bounds import (
    bernstein_lower,
    hoeffding_lower,
    randomized_clopper_pearson_lower,
)
from rsray.core.bounds.randomized_clopper_pearson import uniform_numbers
from rsray.core.pilot import blocks_worth
from rsray.errors import UserError
from rsray.results.certificates import read_certificates
from rsray.results.compare import differences, load, skipped_otherwise
from rsray.storage import Place

MODES = {
    "adaptive": {"sampling": "adaptive", "tolerance": 0.12, "n0": 40},
    "at-radius": {"at_radius": (0.05, 0.2), "n": 400},
    "hoeffding": {"bound": "hoeffding"},
    "bernstein": {"bound": "bernstein", "n": 200},
    "soft adaptive": {"bound": "hoeffding", "sampling": "adaptive", "tolerance": 0.12, "n0": 40},
    "tcertify skip": {"bound": "tcertify", "sampling": "skip"},
    "soft at 5": {"bound": "bernstein", "n": 200, "inverse_temperature": 5.0},
    "randomized": {"bound": "randomized-clopper-pearson"},
}


def items(run, blocks_per_item=3):
    longest = run.claimed.plan.num_blocks if run.config.at_radius else blocks_per_item
    return run.items(longest)


def count(run, chosen=None, watch=None):
    """Do the items that are owed and store each one's rows."""
    for rows in run.tables(items(run) if chosen is None else chosen):
        if len(rows):
            run.store.append(rows)
        if watch:
            watch.add(rows)


def done(run):
    return finish(run.claimed, run.gathered(), seconds=1.0, failed={})


def table(run):
    return pq.read_table(run.where.local_path / "certificates.parquet").to_pylist()


def stored(run):
    rows = pq.read_table(run.where.local_path / "counts").to_pylist()
    return sorted(rows, key=lambda row: (row["index"], row["stage"], row["block"]))


@pytest.mark.parametrize("mode", MODES)
def test_split_order_and_interruptions_change_nothing(small_run, mode):
    whole, cut = small_run("whole", **MODES[mode]), small_run("cut", **MODES[mode])
    count(whole)
    assert items(whole) == []
    some = items(cut, blocks_per_item=1)
    count(cut, some[::-1][::3])
    with pytest.raises(IncompleteError):
        done(cut)
    count(cut, items(cut, blocks_per_item=2)[::-1])
    assert items(cut) == []
    assert stored(whole) == stored(cut)
    assert done(whole)["acr"] == done(cut)["acr"]
    assert table(whole) == table(cut)


@pytest.mark.parametrize("mode", MODES)
def test_the_running_figures_end_where_the_certificates_do(small_run, mode):
    run = small_run(**MODES[mode])
    config = run.config
    watch = Progress(run.gathered())
    count(run, watch=watch)
    summary, last = done(run), watch.snapshot(0, 0.0)
    assert last["images_done"] == 12 and last["draws"] == summary["draws"]
    if config.at_radius:  # draws stop early: no ACR
        assert last["acr"] is None and last["acr_standard_error"] is None
    else:
        assert last["acr"] == pytest.approx(summary["acr"], rel=1e-6)


def test_adaptive_draws_what_the_pilot_asks_for(small_run):
    run = small_run(**MODES["adaptive"])
    count(run)
    done(run)
    selection = {row["index"]: row for row in stored(run) if row["stage"] == "selection"}
    numbers = set()
    for row in table(run):
        pilot = selection[row["index"]]
        top = int(np.argmax(pilot["counts"]))
        if pilot["classes"][top] != row["label"]:
            assert row["skipped"] and row["n"] == 0 and row["radius"] == 0
            continue
        blocks = blocks_worth(
            pilot["counts"][top], 40, n=130, block_size=40, alpha=0.05, tolerance=0.12
        )
        assert row["n"] == min(130, 40 * blocks) and not row["skipped"]
        numbers.add(row["n"])
    assert len(numbers) > 1


def test_at_radius_stops_early_and_says_what_fixed_says(small_run):
    run, fixed = small_run("at", **MODES["at-radius"]), small_run("fixed", n=400)
    count(run)
    fixed.count()
    summary = done(run)
    full = done(fixed)
    assert summary["draws"] < full["draws"] and summary["acr_is_lower_bound"] is True
    record = json.loads((run.where.local_path / "at_radius.json").read_text())
    assert record["certified_accuracy"] == summary["at_radius"]
    assert record["draws"] == summary["draws"] and record["draws_of_fixed"] == full["draws"]
    rows = table(run)
    for radius, share in summary["at_radius"].items():
        assert share == np.mean([row["correct"] and row["radius"] >= float(radius) for row in rows])
        reached = np.mean(
            [row["correct"] and row["radius"] >= float(radius) for row in table(fixed)]
        )
        assert share <= reached <= share + record["undecided"] / 12
    metadata = read_certificates(f"{run.where}/certificates.parquet").metadata
    assert metadata["bound"] == "confidence-sequence" and metadata["at_radius"] == [0.05, 0.2]


def test_a_randomized_bound_is_of_the_runs_seed_and_the_image(small_run):
    bound = MODES["randomized"]["bound"]
    runs = {seed: small_run(f"seed{seed}", bound=bound, seed=seed) for seed in (0, 1)}
    for seed, run in runs.items():
        count(run)
        assert done(run)["bound"] == bound
        for row in table(run):
            u = uniform_numbers(seed, [row["index"]])
            lower = randomized_clopper_pearson_lower(row["count_a"], row["n"], 0.05, u)
            assert row["p_a_lower"] == lower[0] - run.config.total_variation
    plain, _ = again(runs[0], "plain", bound="clopper-pearson")
    assert plain["acr"] < json.loads((runs[0].where.local_path / "summary.json").read_text())["acr"]


@pytest.mark.parametrize("bound", ["hoeffding", "bernstein"])
def test_soft_sums_are_those_of_the_network(small_run, bound):
    run = small_run(bound=bound, n=200)
    count(run)
    done(run)
    assert read_certificates(f"{run.where}/certificates.parquet").metadata["smoothing"] == "soft"
    per_image = {}
    for row in stored(run):
        assert sum(row["counts"]) == row["draws"]
        assert sum(row["sums"]) == pytest.approx(row["draws"], rel=1e-5)
        assert all(0 < q <= s + 1e-5 for q, s in zip(row["square_sums"], row["sums"], strict=True))
        total = per_image.setdefault((row["index"], row["stage"]), np.zeros((3, 4)))
        for column, values in enumerate((row["counts"], row["sums"], row["square_sums"])):
            total[column, row["classes"]] += values
    for row in table(run):
        top = per_image[row["index"], "selection"][1].argmax()
        hits, sums, squares = per_image[row["index"], "estimation"][:, top]
        lower = (
            hoeffding_lower(sums, 200, 0.05)
            if bound == "hoeffding"
            else bernstein_lower(sums, squares, 200, 0.05)
        )
        lower = max(float(lower) - run.config.total_variation, 0.0)
        assert row["p_a_lower"] == lower and row["count_a"] == hits
        assert row["prediction"] == (top if lower > 0.5 else -1)


def test_an_inverse_temperature_is_recorded_and_kept(small_run):
    runs = [
        small_run(f"at{beta:g}", bound="hoeffding", inverse_temperature=beta) for beta in (1, 5)
    ]
    for run in runs:
        count(run)
        done(run)
    lower = [np.array([row["p_a_lower"] for row in table(run)]) for run in runs]
    assert not np.isclose(*lower).any()
    assert runs[0].claimed.run_id != runs[1].claimed.run_id
    keys = ("index", "stage", "block", "classes", "counts")
    hard = [sorted([row[key] for key in keys] for row in stored(run)) for run in runs]
    assert hard[0] == hard[1]
    at_5 = read_certificates(f"{runs[1].where}/certificates.parquet")
    assert at_5.metadata["inverse_temperature"] == 5.0
    # Counts do not depend on it, so a hard bound does not speak of it; the sums still do.
    told, target = again(runs[1], "hard", bound="clopper-pearson")
    assert "inverse_temperature" not in told
    back = recertify(target, Place.of(f"{target}-back"), bound="hoeffding")
    assert back["inverse_temperature"] == 5.0
    again_at_5 = read_certificates(f"{target}-back/certificates.parquet")
    assert np.array_equal(again_at_5.p_a_lower, lower[1])
    at_1 = read_certificates(f"{runs[0].where}/certificates.parquet")
    assert any("inverse_temperature differs: 1.0" in each for each in differences([at_1, at_5]))
    with pytest.raises(UserError, match="inverse_temperature is 5.0 now but was 1.0"):
        recorded_evaluation(runs[0].where, runs[1].config)


def test_a_hard_bound_has_no_inverse_temperature():
    with pytest.raises(UserError, match="inverse-temperature is 2, but the bound tcertify counts"):
        open_certification("nowhere", {"inverse_temperature": 2.0, "bound": "tcertify"})


@pytest.mark.parametrize("mode", [{}, {"sampling": "skip"}, {"at_radius": [0.1]}])
def test_sampling_that_is_not_adaptive_has_no_tolerance(mode):
    with pytest.raises(UserError, match="tolerance is 0.5, but sampling (fixed|skip) draws"):
        open_certification("nowhere", {"tolerance": 0.5, **mode})


def test_soft_and_hard_count_the_same_draws(small_run):
    soft, hard = small_run("soft", bound="hoeffding"), small_run("hard")
    count(soft)
    hard.count()
    for mine, theirs in zip(stored(soft), stored(hard), strict=True):
        seen = {c: n for c, n in zip(mine["classes"], mine["counts"], strict=True) if n}
        assert seen == dict(zip(theirs["classes"], theirs["counts"], strict=True))


def again(run, name, **changes):
    target = Place.of(run.where.local_path.parent / name)
    return recertify(run.where, target, **changes), target


@pytest.mark.parametrize("sampling", ["fixed", "skip"])
@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.2},
        {"n": 80},
        {"bound": "tcertify"},
        {"bound": "randomized-clopper-pearson"},
        {"n": 130, "alpha": 0.01, "bound": "tcertify"},
    ],
)
def test_recertify_equals_a_run_with_those_settings(small_run, sampling, changes):
    run, other = (
        small_run("run", sampling=sampling),
        small_run("other", sampling=sampling, **changes),
    )
    for each in (run, other):
        count(each)
        done(each)
    summary, target = again(run, "again", **changes)
    rows = pq.read_table(f"{target}/certificates.parquet").to_pylist()
    assert rows == table(other)
    theirs = json.loads((other.where.local_path / "summary.json").read_text())
    for key in (
        "acr",
        "certified_accuracy",
        "draws",
        "alpha",
        "bound",
        "n",
        "sampling",
        "num_images",
    ):
        assert summary[key] == theirs[key]
    assert summary["recertified_from"]["cert"] == str(run.where)
    parts = pq.read_table(f"{target}/counts").to_pylist()
    assert sorted(map(str, parts)) == sorted(map(str, stored(other)))
    assert again(run, "again", **changes)[0]["acr"] == summary["acr"]  # the same command again
    chained = recertify(target, Place.of(f"{target}-2"), alpha=0.3)  # a CERT2 is a CERT
    assert chained["acr"] >= summary["acr"] or "n" in changes or changes.get("alpha")


@pytest.mark.parametrize("mode", ["adaptive", "at-radius", "hoeffding", "soft adaptive"])
def test_recertify_other_modes(small_run, mode):
    run = small_run(**MODES[mode])
    count(run)
    before = done(run)
    summary, target = again(run, "again", alpha=0.3)
    assert summary["acr"] >= before["acr"] and summary["draws"] == before["draws"]
    shorter, _ = again(run, "shorter", n=40)
    assert shorter["draws"] < before["draws"] or mode == "soft adaptive"
    if mode == "hoeffding":
        hard, target = again(run, "hard", bound="clopper-pearson")
        assert hard["smoothing"] == "hard"
        back = recertify(target, Place.of(f"{target}-back"), bound="hoeffding")
        assert back["acr"] == before["acr"]
    if mode == "at-radius":
        with pytest.raises(UserError, match="at-radius has a bound and a stopping rule of its own"):
            again(run, "t", bound="tcertify")


def test_recertify_takes_no_alpha_for_which_the_draws_of_at_radius_stopped_too_early(small_run):
    """The images would count as not certified, though a run with that alpha certifies them."""
    run = small_run(at_radius=(0.05,), n=2000, sigma=0.1, n0=20)
    fresh = small_run("fresh", at_radius=(0.05,), n=2000, sigma=0.1, n0=20, alpha=0.001)
    for each in (run, fresh):
        count(each)
    assert done(fresh)["at_radius"] == done(run)["at_radius"]
    with pytest.raises(UserError, match=r"^alpha is 0.001: the draws of \d+ images in .* stopped"):
        again(run, "again", alpha=0.001)
    assert again(run, "again", alpha=0.2, n=1000)[0]["alpha"] == 0.2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bound": "hoeffding"}, "needs sums of soft probabilities"),
        ({"bound": "normal"}, "bound 'normal' is unknown; choose one of clopper-pearson"),
        ({"n": 131}, "n is 131, but only 130 draws an image are stored"),
        ({"n": 100}, "must be a multiple of the block size 40"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": 1e-30, "n": 80}, "nothing could be certified"),
    ],
)
def test_recertify_refuses(small_run, changes, words):
    run = small_run()
    run.count()
    done(run)
    with pytest.raises(UserError, match=words):
        again(run, "again", **changes)


def test_recertify_wants_a_finished_cert_and_a_target_of_its_own(small_run, tmp_path):
    run = small_run()
    run.count()
    with pytest.raises(UserError, match="unfinished certification"):
        again(run, "again", alpha=0.2)
    with pytest.raises(UserError, match="no CERT folder"):
        recertify(Place.of(tmp_path), Place.of(tmp_path / "x"), alpha=0.2)
    done(run)
    with pytest.raises(UserError, match="is the CERT itself"):
        recertify(run.where, run.where, alpha=0.2)
    again(run, "again", alpha=0.2)
    with pytest.raises(
        UserError, match="belongs to another certification: alpha is 0.1 now but was 0.2"
    ):
        again(run, "again", alpha=0.1)
    other = small_run("other")
    with pytest.raises(UserError, match="another certification"):
        recertify(run.where, other.where, alpha=0.2)
    part = sorted((run.where.local_path / "counts").iterdir())[0]
    part.unlink()
    with pytest.raises(UserError, match="lacks counts of"):
        again(run, "lost", alpha=0.2)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b""])
def test_recertify_reads_everything_before_it_writes(small_run, damage):
    run = small_run()
    run.count()
    done(run)
    name = run.store.names()[-1]
    whole = run.store.folder.read(name)
    run.store.folder.write(name, damage(whole))
    with pytest.raises(UserError, match=f"{name} is damaged .*run `rsray certify` again"):
        again(run, "again", alpha=0.2)
    assert not Place.of(run.where.local_path.parent / "again").exists()
    assert name in run.store.names()  # only the run itself may drop it
    run.store.folder.write(name, whole)
    assert again(run, "again", alpha=0.2)[0]["num_images"] == 12


def test_recertify_counts_a_block_once_that_is_stored_twice(small_run):
    run = small_run()
    run.count()
    done(run)
    once, _ = again(run, "once", alpha=0.2)
    for name in run.store.names()[:2]:
        run.store.folder.write(name.replace("part-", "part-9"), run.store.folder.read(name))
    assert done(run)["draws"] == 12 * 140
    twice, target = again(run, "twice", alpha=0.2)
    assert twice["acr"] == once["acr"] and twice["draws"] == once["draws"]
    assert len(pq.read_table(f"{target}/counts")) == 12 * 5


def test_recertify_says_that_a_soft_run_skipped_what_a_hard_one_draws(small_run, caplog):
    run = small_run(bound="hoeffding", sampling="skip", n0=2, sigma=0.6, seed=1)
    count(run)
    done(run)
    selection = {row["index"]: row for row in stored(run) if row["stage"] == "selection"}
    undrawn = 0
    for row in table(run):
        pilot = selection[row["index"]]
        hard, soft = (pilot["classes"][int(np.argmax(pilot[c]))] for c in ("counts", "sums"))
        undrawn += hard == row["label"] != soft
    assert undrawn > 0
    again(run, "soft", alpha=0.2)
    assert caplog.text == ""
    _, target = again(run, "hard", bound="clopper-pearson")
    assert f"{undrawn} images have no estimation draws: hoeffding missed their label" in caplog.text
    rows = pq.read_table(f"{target}/certificates.parquet").to_pylist()
    assert all(row["skipped"] == (row["n"] == 0) for row in rows)
    results = [load(str(run.where)), load(str(target))]
    (said,) = skipped_otherwise(results)
    assert "skipped where hoeffding missed their label, not where clopper-pearson does" in said


def test_default_target_names_the_changes():
    assert default_target("runs/c/", alpha=0.01) == "runs/c-alpha0.01"
    assert (
        default_target("runs/c", alpha=0.01, bound="tcertify", n=2000)
        == "runs/c-alpha0.01-tcertify-n2000"
    )


def test_ids_of_runs_that_use_none_of_this_stay(small_run):
    run = small_run()
    new = (
        "tolerance", "at_radius", "channels", "label_column", "is_spread", "model_args",
        "normalisation", "inverse_temperature", "reused_run",
    )  # fmt: skip
    plain = {k: v for k, v in run.config.identity().items() if k not in new}
    text = json.dumps(plain, sort_keys=True).encode()
    assert run.claimed.run_id == hashlib.blake2b(text, digest_size=8).hexdigest()
    assert run_id(small_run("b", at_radius=(0.1,)).config) != run.claimed.run_id


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"at_radius": (0.1,), "bound": "tcertify"}, "stopping rule of its own"),
        ({"at_radius": (0.1,), "sampling": "adaptive"}, "stopping rule of its own"),
        ({"at_radius": (3.0,)}, "at-radius 3 cannot be reached: .* the largest radius is"),
        ({"bound": "hoeffding", "n": 5}, "by the hoeffding bound; n must be at least 6"),
        ({"sampling": "adaptive", "tolerance": 0}, "tolerance is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(small_run, settings, words):
    with pytest.raises(UserError, match=words):
        small_run(**settings)
