"""The record of a search: what it proposes, what it keeps, what a torn or interrupted one becomes."""

import re
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

from rsray.config import TuneConfig
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.search import StudySearcher, _make_scheduler
from rsray.distributed.search.space import parse_grid, parse_space
from rsray.distributed.search.study import SCHEMA, find_winner, open_study, trial_rows, write_trials
from rsray.distributed.search.winner import Finals
from rsray.errors import UserError
from rsray.outcomes import Study
from rsray.presets import train_config
from rsray.storage import Place
from rsray.storage.yaml_files import to_yaml

EPOCHS, LOOKS = 8, 4


def search_of(*specs, **changes):
    specs = specs or ("trade_off=log(0.5,32)", "hinge=uniform(2,16)")
    base = train_config({"dataset": "digits", "epochs": EPOCHS, "deferred": False})
    values = {
        "train": base,
        "search": parse_space(specs, "macer"),
        "trials": 12,
        "report_every": 2,
    }
    return resolve_search(TuneConfig.make({**values, **changes}))


def look(number, acr, accuracy=0.5):
    return {
        "look": number, "epoch": 2 * number, "epochs": EPOCHS,
        "projected_acr": acr, "clean_accuracy": accuracy,
    }  # fmt: skip


def value(params, number):
    """A smooth result with its best at trade_off 8, hinge 10; it grows with the looks."""
    off = np.log(params["trade_off"] / 8) ** 2 + ((params["hinge"] - 10) / 8) ** 2
    return float((1 - 0.1 * off) * number / LOOKS)


def run(search, out, trials, stop_at=LOOKS):
    """Run trials through the searcher as Tune does, without Tune; returns their settings."""
    study = open_study(out, search)
    searcher, tried = StudySearcher(search, study), []
    for place in range(trials):
        name = f"t{place}"
        tried.append(searcher.suggest(name))
        # Tune tells only on_trial_complete of the look at which a trial is stopped.
        for number in range(1, stop_at + (stop_at == LOOKS)):
            searcher.on_trial_result(name, look(number, value(tried[-1], number)))
        searcher.on_trial_complete(name, look(stop_at, value(tried[-1], stop_at)))
    return tried


def folder(path):
    return Place.of(path).make()


def test_a_search_that_stops_and_goes_on_proposes_what_an_unbroken_one_does(tmp_path):
    search = search_of()
    whole = run(search, folder(tmp_path / "whole"), 12)
    parts = folder(tmp_path / "parts")
    assert run(search, parts, 5) + run(search, parts, 7) == whole
    assert run(search_of(seed=1), folder(tmp_path / "other"), 12)[1:] != whole[1:]
    assert len({tuple(point.values()) for point in whole}) == 12


def test_what_was_under_way_runs_again_under_its_number(tmp_path):
    search, out = search_of(), folder(tmp_path)
    searcher = StudySearcher(search, open_study(out, search))
    points = [searcher.suggest("a"), searcher.suggest("b")]
    searcher.on_trial_result("b", look(1, 0.3))
    again = StudySearcher(search, open_study(out, search))
    assert [again.suggest("c"), again.suggest("d")] == points
    again.on_trial_result("d", look(1, 0.3))  # the study has it: no complaint, no change
    for name in ("c", "d"):
        again.on_trial_complete(name, look(LOOKS, 0.5))
    assert [row["number"] for row in trial_rows(open_study(out, search))] == [0, 1]


def test_what_is_shown_while_it_runs_is_the_winners_and_survives_a_resume(tmp_path):
    search, out = search_of(), folder(tmp_path)
    searcher = StudySearcher(search, open_study(out, search))
    assert searcher.best_acr() is None
    for name in "abc":
        searcher.suggest(name)
    searcher.on_trial_complete("b", look(1, 0.9))  # stopped early
    searcher.on_trial_complete("a", look(LOOKS, 0.4))
    again = StudySearcher(search, open_study(out, search))
    again.suggest("d")
    assert [searcher.number_of(name) for name in "abc"] == [0, 1, 2] and again.number_of("d") == 2
    assert again.best_acr() == 0.4 == find_winner(again.study).value


def test_a_torn_last_line_is_cut_off_and_the_rest_kept(tmp_path):
    search, out = search_of(), folder(tmp_path)
    tried = run(search, out, 3)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    (tmp_path / "study.journal.lock").symlink_to(journal)  # as a killed Optuna leaves it
    journal.write_bytes(whole + b'{"op_code":4,"worker_id":"x","study_id":0,"dist')
    tried += run(search, out, 2)
    assert run(search, folder(tmp_path / "unbroken"), 5) == tried
    for cut in range(len(whole) - 300, len(whole), 7):  # killed at any byte of the last lines
        journal.write_bytes(whole[:cut])
        study = open_study(out, search)
        assert len(study.get_trials()) == 3
        study.ask()  # and it can be written to
        open_study(out, search)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"projected_acr": 0.0, "error": "the loss became nan"}, "the loss became nan"),
        ({**look(4, float("nan"))}, "no result"),
        (None, "its process was lost 3 times"),
    ],
)
def test_a_failed_trial_is_a_fail_that_the_sampler_never_sees(tmp_path, result, error):
    search, out = search_of(), folder(tmp_path)
    searcher = StudySearcher(search, open_study(out, search))
    searcher.suggest("a")
    if result:
        searcher.on_trial_result("a", {k: v for k, v in result.items() if k != "look"})
    searcher.on_trial_complete("a", result, error=result is None)
    study = open_study(out, search)
    (trial,) = study.get_trials(states=(TrialState.FAIL,))
    assert trial.values is None and trial.intermediate_values == {}
    assert trial.user_attrs["error"] == error
    with pytest.raises(UserError, match=f"1 x {error}.*trials.parquet"):
        find_winner(study)
    run(search, out, 11)
    values = [t.value for t in open_study(out, search).get_trials() if t.value is not None]
    assert len(values) == 11 and np.isfinite(values).all()


def test_a_trial_that_was_stopped_is_pruned_and_never_wins(tmp_path):
    search, out = search_of(), folder(tmp_path)
    run(search, out, 2)
    searcher = StudySearcher(search, open_study(out, search))
    searcher.suggest("a")
    searcher.on_trial_complete("a", look(1, 0.99))  # all that Tune tells of the look that stops it
    study = open_study(out, search)
    stopped = study.get_trials()[2]
    assert stopped.state == TrialState.PRUNED and stopped.intermediate_values == {1: 0.99}
    assert find_winner(study).number < 2
    assert trial_rows(study)[2]["projected_acr"] == 0.99


def test_what_stopping_early_saved_is_told(tmp_path):
    search, out = search_of(), folder(tmp_path)
    run(search, out, 2)
    run(search, out, 3, stop_at=1)
    write_trials(out, open_study(out, search), search)
    out.write("tune.yaml", to_yaml(search.config.model_dump(mode="json")))
    found = Study(str(tmp_path), Finals()).early_stopping
    assert found == (3, 5, 2 * EPOCHS + 3 * 2, 5 * EPOCHS)
    assert str(found).startswith("3 of 5 trials stopped early: 22 epochs of") and "55%" in str(
        found
    )


def test_asha_knows_the_trials_that_ended_before(tmp_path):
    search, out = search_of(reduction=2), folder(tmp_path)
    run(search, out, 4)
    run(search, out, 3, stop_at=1)
    searcher = StudySearcher(search, open_study(out, search))
    rungs = rungs_of(_make_scheduler(search, searcher))
    trials = searcher.study.get_trials()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert (len(complete), len(trials)) == (4, 7)
    assert rungs[1] == sorted(trial.intermediate_values[1] for trial in trials)
    assert rungs[4] == sorted(trial.value for trial in complete)


def rungs_of(asha):
    return {milestone: sorted(seen.values()) for milestone, seen in asha._brackets[0]._rungs}


def test_asha_stops_no_setting_that_was_given(tmp_path):
    search = search_of()
    searcher = StudySearcher(search, open_study(folder(tmp_path), search))
    asha, decisions = _make_scheduler(search, searcher), []
    for name, acr in (("given", 0.1), ("good", 0.9), ("bad", 0.2)):
        searcher.suggest(name)
        trial = SimpleNamespace(trial_id=name)
        asha.on_trial_add(None, trial)
        decisions.append(asha.on_trial_result(None, trial, look(1, acr)))
    assert decisions == ["CONTINUE", "CONTINUE", "STOP"]
    late = SimpleNamespace(trial_id="late")  # the given one again, behind the others by now
    searcher.running["late"] = searcher.running["given"]
    asha.on_trial_add(None, late)
    assert asha.on_trial_result(None, late, look(1, 0.1)) == "CONTINUE"
    assert rungs_of(asha)[1] == [0.1, 0.1, 0.2, 0.9]


def test_asha_waits_until_the_method_that_is_searched_is_at_work(tmp_path):
    def first_rung(path, specs=(), **train):
        base = train_config({"dataset": "digits", "epochs": 16, **train})
        search = search_of(*specs, train=base)
        searcher = StudySearcher(search, open_study(folder(tmp_path / path), search))
        return min(rungs_of(_make_scheduler(search, searcher)))

    # Looks at epochs 2, 4, ...; the trade-off is 0 in the first four epochs.
    assert first_rung("deferred", lr_drops=(4, 14), deferred=True) == 3
    assert first_rung("late", lr_drops=(15,), deferred=True) == 8
    assert first_rung("at-once", lr_drops=(4, 14), deferred=False) == 2
    # Easy is cross entropy in its first ten epochs, whatever the other trials are of.
    assert first_rung("other", ["objective=choice(macer,easy)"], deferred=False) == 6


def test_two_objectives_give_the_front_and_the_first_decides(tmp_path):
    search, out = search_of(objectives=["clean_accuracy", "acr"]), folder(tmp_path)
    searcher = StudySearcher(search, open_study(out, search))
    figures = [(0.5, 0.9), (0.6, 0.8), (0.55, 0.7), (0.4, 0.9)]  # (acr, accuracy)
    for place, (acr, accuracy) in enumerate(figures):
        searcher.suggest(str(place))
        searcher.on_trial_result(str(place), look(1, acr, accuracy))
        searcher.on_trial_complete(str(place), look(LOOKS, acr, accuracy))
    study = open_study(out, search)
    assert [row["pareto"] for row in trial_rows(study)] == [True, True, False, False]
    assert {trial.number for trial in study.best_trials} == {0, 1}  # Optuna's own front
    assert find_winner(study).number == 0
    assert type(_make_scheduler(search, study)).__name__ == "FIFOScheduler"


def test_a_grid_tries_every_cell_once_and_the_published_point_comes_first_otherwise(tmp_path):
    specs = parse_grid(["trade_off=1,4", "hinge=4,8,16"], "macer")
    search = search_of(sampler="grid", trials=6, search=specs)
    out = folder(tmp_path / "grid")
    tried = run(search, out, 2) + run(search, out, 4)
    assert [(p["trade_off"], p["hinge"]) for p in tried] == [
        (a, b) for a in (1, 4) for b in (4, 8, 16)
    ]
    assert {row["source"] for row in trial_rows(open_study(out, search))} == {"grid"}
    base = train_config({"trade_off": 30.0}, preset_name="macer-cifar10-0.50")
    other = search_of(train=base)
    points = run(other, folder(tmp_path / "published"), 3)
    # MACER table 1 has trade_off 4 for CIFAR-10 at sigma 0.50.
    assert [point["trade_off"] for point in points[:2]] == [4.0, 30.0]


def test_the_table_of_trials_tells_its_units_and_keeps_mixed_choices(tmp_path):
    search = search_of("num_draws=choice(4,8)", "augmentation=choice(none,1)")
    out = folder(tmp_path)
    study = open_study(out, search)
    for point in ({"num_draws": 4, "augmentation": "none"}, {"num_draws": 8, "augmentation": 1}):
        study.enqueue_trial(point)
        searcher = StudySearcher(search, study)
        searcher.suggest("a")
        searcher.on_trial_complete("a", look(LOOKS, 0.5))
    write_trials(out, study, search)
    table = pq.read_table(tmp_path / "trials.parquet")
    assert table["augmentation"].to_pylist() == ["none", "1"]
    assert table["num_draws"].to_pylist() == [4, 8]
    assert table.schema.names[: len(SCHEMA)] == SCHEMA.names
    assert b"pixels" in table.schema.field("projected_acr").metadata[b"description"]
    assert b"rsray" in table.schema.metadata


@pytest.mark.slow
def test_tpe_with_our_telling_beats_random_on_a_smooth_function(tmp_path):
    best = {}
    for sampler in ("tpe", "random"):
        ends = []
        for seed in range(5):
            search = search_of(sampler=sampler, seed=seed, trials=40)
            out = folder(tmp_path / f"{sampler}{seed}")
            ends.append(max(value(p, LOOKS) for p in run(search, out, 40)[1:]))
        best[sampler] = np.mean(ends)
    assert best["tpe"] > best["random"]


def test_a_study_says_what_it_searches(tmp_path):
    """As optuna-dashboard shows it."""
    study = open_study(folder(tmp_path), search_of("trade_off=log(1,32)"))
    assert study.metric_names == ["projected_acr"]
    assert study.user_attrs["dataset"] == "digits" and study.user_attrs["sigma"] == 0.25


OVER_OBJECTIVES = (
    "objective=choice(macer,smoothadv,gaussian)", "lr=log(0.01,0.1)", "num_steps=int(1,16)",
    "macer.trade_off=log(1,32)",
)  # fmt: skip


def test_a_trial_has_the_settings_of_its_own_objective_alone(tmp_path):
    search = search_of(*OVER_OBJECTIVES, trials=24, starts={"smoothadv": {"num_draws": 2}})
    study = open_study(folder(tmp_path), search)
    searcher, own = (
        StudySearcher(search, study),
        {"macer": "macer.trade_off", "smoothadv": "num_steps"},
    )
    for place in range(24):
        point = searcher.suggest(f"t{place}")
        expected = {"objective", "lr", own.get(point["objective"])} - {None}
        assert set(point) == expected
        made = search.full(point)
        assert made.objective == point["objective"] and made.lr == point["lr"]
        for key in expected - {"objective", "lr"}:
            assert made.settings[key.rpartition(".")[2]] == point[key]
        assert (
            made.settings["num_draws"]
            == {"macer": 4, "smoothadv": 2, "gaussian": 1}[made.objective]
        )
        assert ("hinge" in made.settings) == (made.objective == "macer")
        result = 0.9 if made.objective == "smoothadv" else 0.1
        searcher.on_trial_complete(f"t{place}", {**look(LOOKS, result)})
    first = [(t.params["objective"], t.user_attrs["source"]) for t in study.trials[:3]]
    assert first == [("macer", "start"), ("smoothadv", "first"), ("gaussian", "first")]
    counts = [t.params["objective"] for t in study.trials[12:]].count("smoothadv")
    assert counts >= 6, "the sampler learns which objective is better"
    out = folder(tmp_path / "out")
    write_trials(out, study, search)
    rows = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert all((row["num_steps"] is None) == (row["objective"] != "smoothadv") for row in rows)
    assert study.user_attrs["objective"] == "macer, smoothadv, gaussian"
    assert find_winner(study).params["objective"] == "smoothadv"


def test_a_search_over_objectives_goes_on_with_the_settings_that_were_under_way(tmp_path):
    search, out = search_of(*OVER_OBJECTIVES), folder(tmp_path)
    searcher = StudySearcher(search, open_study(out, search))
    points = [searcher.suggest(name) for name in "abcde"]
    again = StudySearcher(search, open_study(out, search))
    assert [again.suggest(name) for name in "fghij"] == points


@pytest.mark.parametrize("attributes", ["null", '{"constraints":[1]}'])
def test_a_trial_with_attributes_that_no_search_writes_is_refused(tmp_path, attributes):
    """Optuna reads them when it proposes, and would raise there."""
    search, out = search_of(), folder(tmp_path)
    run(search, out, 1)
    journal = tmp_path / "study.journal"
    found, edits = re.subn(
        r'"system_attrs": ?\{.*?\}+', f'"system_attrs":{attributes}', journal.read_text(), count=1
    )
    assert edits == 1
    journal.write_text(found)
    with pytest.raises(UserError, match="has constraints, or none of Optuna's attributes"):
        open_study(out, search)


@pytest.mark.parametrize("name", ["projected_acr", "values"])
def test_a_figure_that_no_search_could_have_is_refused(tmp_path, name):
    """A number of fifty digits is no float to those who reckon with it."""
    search, out = search_of(), folder(tmp_path)
    run(search, out, 1)
    journal, most = tmp_path / "study.journal", "9" * 50
    found = re.sub(rf'"{name}": ?\[?[-\d.e]+', f'"{name}":{"[" * (name == "values")}{most}',
                   journal.read_text())  # fmt: skip
    assert most in found
    journal.write_text(found)
    with pytest.raises(UserError, match=r"trial 0 of the search"):
        open_study(out, search)
