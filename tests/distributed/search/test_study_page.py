"""The plots and the page of a search: every picture of the right trials, nothing from outside."""

import re

import numpy as np
import pytest

from rsray.config import TuneConfig
from rsray.distributed.search import study_plots
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.search import StudySearcher
from rsray.distributed.search.space import parse_grid, parse_space
from rsray.distributed.search.study import open_study, trial_rows
from rsray.distributed.search.study_page import draw_figures, importance_shares, write_study
from rsray.presets import train_config
from rsray.results.certificates import write_certificates
from rsray.storage import Place


def searched(out, figures, search, **changes):
    """A study whose trials ended with (acr, accuracy, epoch of 4) each, or with an error."""
    base = train_config({"dataset": "digits", "epochs": 4, "model": "lenet"})
    values = {"train": base, "search": search, "trials": len(figures)}
    found = resolve_search(TuneConfig.make({**values, **changes}))
    study = open_study(Place.of(out).make(), found)
    searcher = StudySearcher(found, study)
    for place, figure in enumerate(figures):
        point = searcher.suggest(str(place))
        result = figure(point) if callable(figure) else figure
        if isinstance(result, str):
            searcher.on_trial_complete(str(place), {"projected_acr": 0.0, "error": result})
            continue
        acr, accuracy, epoch = result
        look = {"projected_acr": acr, "clean_accuracy": accuracy, "epoch": epoch, "epochs": 4}
        searcher.on_trial_result(str(place), {**look, "look": epoch})
        searcher.on_trial_complete(str(place), look)
    return found, study


def drawn(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return [tuple(map(float, point)) for point in zip(*line.get_data(), strict=True)]


def test_the_history_shows_every_trial_once_and_the_best_so_far(tmp_path):
    space = parse_space(["hinge=uniform(2,16)"], "macer")
    figures = [(0.4, 0.9, 4), (0.7, 0.9, 2), (0.3, 0.9, 4), "it diverged", (0.5, 0.9, 4)]
    _, study = searched(tmp_path, figures, space)
    rows = trial_rows(study)
    rows[0]["source"] = "paper"
    axes = study_plots.draw_history(rows, "projected_acr").axes[0]
    assert drawn(axes, "complete") == [(0, 0.4), (2, 0.3), (4, 0.5)]
    assert drawn(axes, "stopped early") == [(1, 0.7)]
    assert drawn(axes, "best") == [(4, 0.5)]  # a stopped trial is never the best
    assert drawn(axes, "best so far") == [(0, 0.4), (2, 0.4), (4, 0.5), (4, 0.5)]
    assert [x for x, _ in drawn(axes, "failed")] == [3]
    assert drawn(axes, "published setting")[0][1] == 0.4


def test_importance_finds_the_setting_that_matters(tmp_path):
    space = parse_space(["trade_off=uniform(0,1)", "hinge=uniform(0,1)"], "macer")
    rule = [lambda point: (10 * point["hinge"] + 0.1 * point["trade_off"], 0.5, 4)] * 30
    _, study = searched(tmp_path, rule, space, sampler="random")
    shares = importance_shares(study)
    assert shares["hinge"] > 0.8 and sum(shares.values()) == pytest.approx(1)
    axes = study_plots.draw_importance(shares, "projected_acr").axes[0]
    widths = {
        t.get_text(): bar.get_width()
        for t, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
    }
    assert widths == shares


def test_a_front_and_a_grid_are_drawn_as_they_are(tmp_path):
    space = parse_space(["hinge=uniform(2,16)"], "macer")
    figures = [(0.5, 0.9, 4), (0.6, 0.8, 4), (0.55, 0.7, 4)]
    found, study = searched(tmp_path / "two", figures, space, objectives=["acr", "clean_accuracy"])
    assert {"history", "pareto", "slices"} <= set(draw_figures(trial_rows(study), study, found))
    axes = study_plots.draw_pareto(trial_rows(study), ["projected_acr", "clean_accuracy"]).axes[0]
    assert drawn(axes, "Pareto front") == [(0.8, 0.6), (0.9, 0.5)]
    grid = parse_grid(["trade_off=1,16", "model=lenet,resnet20"], "macer")
    figures = [(0.1, 0, 4), (0.2, 0, 4), (0.3, 0, 4), (0.4, 0, 4)]
    found, study = searched(tmp_path / "grid", figures, grid, sampler="grid")
    axes = draw_figures(trial_rows(study), study, found)["grid"].axes[0]
    assert drawn(axes, "model lenet") == [(0, 0.1), (1, 0.3)]
    assert drawn(axes, "model resnet20") == [(0, 0.2), (1, 0.4)]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "16"]


def test_importances_need_ten_complete_trials(tmp_path):
    space = parse_space(["trade_off=uniform(0,1)", "hinge=uniform(0,1)"], "macer")
    for count, is_drawn in ((9, False), (10, True)):
        rule = [lambda point: (point["hinge"], 0.5, 4)] * count
        found, study = searched(tmp_path / str(count), [*rule, (0.9, 0.5, 2), "it failed"], space)
        assert ("importance" in draw_figures(trial_rows(study), study, found)) == is_drawn


def test_no_importance_is_drawn_without_two_results_that_differ(tmp_path):
    space = parse_space(["hinge=uniform(2,16)"], "macer")
    for count, acr in ((1, 0.4), (12, 0.4)):
        figures = [(acr, 0.9, 4)] * count
        found, study = searched(tmp_path / str(count), figures, space)
        assert importance_shares(study) == {}
        assert "importance" not in draw_figures(trial_rows(study), study, found)


def test_a_published_setting_that_was_not_trained_to_its_end_is_no_mark(tmp_path):
    space = parse_space(["hinge=uniform(2,16)"], "macer")
    _, study = searched(tmp_path, [(0.4, 0.9, 2), (0.7, 0.9, 4)], space)
    rows = trial_rows(study)
    rows[0]["source"] = "paper"
    axes = study_plots.draw_history(rows, "projected_acr").axes[0]
    assert "published setting" not in [line.get_label() for line in axes.lines]


def test_a_search_without_a_winner_is_still_drawn_and_told(tmp_path):
    grid = parse_grid(["trade_off=1,16"], "macer")
    both = {"objectives": ["acr", "clean_accuracy"]}
    spaces = [
        (parse_space(["trade_off=log(0.01,32)", "hinge=uniform(2,16)"], "macer"), {}),
        (grid, {"sampler": "grid"}),
        (grid, {"sampler": "grid", **both}),
    ]
    for place, (space, changes) in enumerate(spaces):
        out = tmp_path / str(place)
        found, study = searched(out, ["no memory", "it diverged"], space, **changes)
        write_study(Place.of(out), study, found)
        html = (out / "tune.html").read_text()
        assert "no memory" in html and "it diverged" in html and "2 failed" in html
        assert (out / "plots" / "history.svg").stat().st_size > 0


@pytest.mark.parametrize("count", [1, 2])
def test_the_page_holds_every_trial_and_needs_nothing_else(tmp_path, count):
    space = parse_space(["trade_off=log(0.01,32)", "model=choice(lenet,'<b>')"], "macer")
    figures = [(0.123456, 0.5, 4), "<script>alert(1)</script>"][:count]
    found, study = searched(tmp_path, figures, space)
    write_study(Place.of(tmp_path), study, found)
    html = (tmp_path / "tune.html").read_text()
    assert "0.1235" in html and "<script>" not in html and "<b>" not in html
    assert ("&lt;script&gt;alert(1)" in html) == (count == 2)
    links = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert all(link.startswith("#") for link in links) and "url(http" not in html
    for name in ("history", "slices"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (tmp_path / "plots" / f"{name}.svg").read_bytes()


def test_the_page_has_the_result_then_the_search_then_settings_folded(tmp_path, certificates_in):
    space = parse_space(["hinge=uniform(2,16)"], "macer")
    figures = [(0.4, 0.9, 4), (0.7, 0.9, 2), "it diverged"]
    found, study = searched(tmp_path, figures, space)
    certificates_in(tmp_path / "best" / "certificates")
    write_study(Place.of(tmp_path), study, found)
    html = (tmp_path / "tune.html").read_text()
    order = ["Average certified radius", "data-curves=", "Certified accuracy in %", "<h2>Search</h2>",
             "<h2>Trials</h2>", "<h2>Parameters</h2>", "<summary>what was trained"]  # fmt: skip
    places = [html.index(each) for each in order]
    assert places == sorted(places)
    assert "1 complete, 1 stopped early, 1 failed" in html
    assert html.count("<td>stopped early</td>") == html.count("<td>failed</td>") == 1
    assert "pruned" not in html
    assert (tmp_path / "plots" / "history.pdf").read_bytes().startswith(b"%PDF")


@pytest.fixture
def certificates_in():
    def write(folder):
        size = 20
        label = np.arange(size) % 10
        columns = {
            "index": np.arange(size), "label": label, "prediction": label,
            "radius": np.linspace(0.1, 0.9, size), "correct": np.ones(size, bool),
            "p_a_lower": np.full(size, 0.9), "p_b_upper": np.full(size, 0.1),
            "count_a": np.full(size, 990), "n0": np.full(size, 100), "n": np.full(size, 1000),
            "skipped": np.zeros(size, bool),
        }  # fmt: skip
        metadata = {"sigma": 0.5, "alpha": 0.001, "bound": "clopper-pearson", "n": 1000}
        write_certificates(folder / "certificates.parquet", columns, metadata)

    return write
