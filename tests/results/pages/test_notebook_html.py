"""What a notebook shows of results: whole HTML, with the figures, and strangers' names as text."""

import numpy as np
import pyarrow as pa
from test_page import Outline

from rsray.results.explanation import explain
from rsray.results.pages import notebook

EVIL = "<script>alert(1)</script>"


def outline_of(text):
    outline = Outline()
    outline.feed(text)
    assert outline.open == [] and "script" not in outline.tags
    return outline


def test_certificates_show_the_acr_a_curve_and_a_table(make):
    result = make(50, name=EVIL)
    outline = outline_of(notebook.certificates_html(result))
    assert outline.tags.count("svg") == 1 and "table" in outline.tags
    words = " ".join(outline.text)
    assert f"Average certified radius {result.acr:.3f}" in words and EVIL in words


def test_a_training_shows_its_settings_and_epochs_if_it_has_any():
    record = {"dataset": "digits", "objective": EVIL, "settings": {"trade_off": 4.0}}
    metrics = [{"epoch": k, "loss": 2.0 - k, "noisy_accuracy": 0.5} for k in range(2)]
    outline = outline_of(notebook.training_html("run", metrics, record))
    assert outline.tags.count("svg") == 1
    assert {"digits", EVIL, "trade_off", "4.0"} <= set(outline.text)
    assert "svg" not in outline_of(notebook.training_html("run", [], record)).tags


def test_a_search_shows_its_best_trials_first(make):
    rows = [
        {"number": k, "state": state, "source": "paper", "projected_acr": acr,
         "clean_accuracy": 0.5, "epoch": 4, "pareto": False, "seconds": 1.0, "error": None,
         "hinge": float(k)}
        for k, (state, acr) in enumerate(
            [("pruned", 0.9), ("complete", 0.25), ("fail", None), ("complete", 0.75)]
        )
    ]  # fmt: skip
    trials = pa.Table.from_pylist(rows)
    words = [w for w in outline_of(notebook.search_html(trials, None)).text if w.strip()]
    assert "hinge" in words and "error" not in words
    assert "Average certified radius" in notebook.search_html(trials, make(50))
    states = [word for word in words if word in ("complete", "stopped early", "failed")]
    assert states == ["complete", "complete", "stopped early", "failed"]
    assert not {"pruned", "fail"} & set(words)
    assert words.index("0.75") < words.index("0.25") < words.index("0.9")
    many = pa.Table.from_pylist(rows * 5)
    assert "the best 10 of 20 trials" in notebook.search_html(many, None)


def test_a_certificate_in_words_is_text(make):
    explained = explain(make(40, classes=[EVIL, *"bcdefghij"]), 0)
    assert len(outline_of(explained._repr_html_()).tags) == len(explained.lines)


def test_a_soft_bound_is_told_as_a_bound_of_the_mean_probability(make):
    soft = make(40, bound="hoeffding", smoothing="soft")
    answers, abstains = (
        str(explain(soft, int(soft.index[np.flatnonzero(is_it)[0]])))
        for is_it in (soft.correct & (soft.radius > 0), soft.prediction < 0)
    )
    assert "copies that there could be, the mean probability of that class is at least" in answers
    assert "answers by the mean probability over noisy copies" in answers
    assert "it is only certain that the mean probability of that class is at least" in abstains
