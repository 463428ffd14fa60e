"""The plots beside the radius-accuracy curve, and what all of them have in common."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import beta, norm
from statsmodels.stats.proportion import proportion_confint

from rsray.config import ReportConfig
from rsray.errors import UserError
from rsray.results.compare import by_class
from rsray.results.plots import PLOTS, accuracy, classes, draws, probability, style, training
from rsray.results.plots.style import Style


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_has_title_size_legend_and_notes(make, name):
    look = Style(title="A title", size=(7, 5), notes=("n differs: 1000 ($a$), 10 (b)",))
    figure = PLOTS[name]([make(name="a"), make(50, name="b")], look)
    legend = figure.legends[0]
    assert legend.get_title().get_text() == "A title"
    assert [text.get_text()[0] for text in legend.get_texts()] == ["a", "b"]
    assert tuple(figure.get_size_inches()) == (7, 5)
    assert any(r"n differs: 1000 (\$a\$)" in text.get_text() for text in figure.texts)
    assert style.render(figure, ".svg")


def test_the_command_offers_every_plot():
    (chosen,) = [ReportConfig.model_fields["plot_of"].annotation]
    assert set(chosen.__args__) == {*PLOTS, "training"}


def test_bands_are_exact_and_are_left_out_of_many_results(make):
    low, high = accuracy.band(np.array([0.0, 0.3, 1.0]), 40)
    for at, hits in enumerate((0, 12, 40)):
        expected = proportion_confint(hits, 40, alpha=0.05, method="beta")
        assert (low[at], high[at]) == pytest.approx(expected)
    for count, bands in ((4, 4), (5, 0)):
        figure = accuracy.draw([make(30 + i, name=str(i)) for i in range(count)])
        assert len(figure.axes[0].collections) == bands
        said = any("95 % confidence" in text.get_text() for text in figure.texts)
        assert said == (bands > 0)


def test_the_distribution_of_p_a(make, without):
    result = without(make(), 3)
    p, share = probability.distribution(result)
    right = result.correct
    assert share[0] == pytest.approx((40 - right.sum()) / 40) and share[-1] == 1.0
    at = len(p) // 2
    expected = (40 - right.sum() + np.sum(result.p_a_lower[right] <= p[at])) / 40
    assert share[at] == pytest.approx(expected)


def test_p_a_of_a_log_is_that_of_its_radius(make):
    log = make(p_a=None)
    log = dataclasses.replace(log, p_a_lower=np.full(40, np.nan))
    p = probability.probabilities(log)
    assert p[log.correct] == pytest.approx(norm.cdf(log.radius[log.correct] / 0.5))
    for unknown in ({"sigma": None}, {"at_radius": [0.5]}):
        other = dataclasses.replace(log, metadata={**log.metadata, **unknown})
        with pytest.raises(UserError, match=r"--log-sigma|few radii"):
            probability.probabilities(other)


def test_p_a_of_a_log_of_tcertify_is_said_to_be_no_bound(make):
    for bound, is_said in (("tcertify", True), ("clopper-pearson", False)):
        result = make(name="mine")
        log = dataclasses.replace(
            result, p_a_lower=np.full(40, np.nan), metadata={**result.metadata, "bound": bound}
        )
        cert = dataclasses.replace(log, p_a_lower=result.p_a_lower)
        for each, expected in ((log, is_said), (cert, False)):
            texts = " ".join(text.get_text() for text in probability.draw([each], Style()).texts)
            assert ("may be shown larger" in texts.replace("\n", " ")) == expected


def test_the_projected_acr_is_the_certified_one_at_its_own_n(make):
    rng, n = np.random.default_rng(0), int(draws.DRAWS[10])
    hits = rng.integers(n // 2 + 60, n, 40)
    lower = beta.ppf(0.001, hits, n - hits + 1)
    radius = np.maximum(0.5 * norm.ppf(lower), 0.0)
    base = make(n=n)
    base = dataclasses.replace(
        base, prediction=base.label, correct=base.label >= 0, count_a=hits, n=np.full(40, n),
        radius=radius, p_a_lower=lower,
    )  # fmt: skip
    projected = draws.projected_acr(base)
    assert projected[10] == pytest.approx(base.acr, abs=1e-12)
    assert np.all(np.diff(projected) > -1e-3)
    # Of a log the counts follow from the radii.
    log = dataclasses.replace(base, count_a=np.full(40, -1))
    assert draws.projected_acr(log)[10] == pytest.approx(base.acr, abs=1e-9)
    with pytest.raises(UserError, match="--log-n"):
        draws.projected_acr(make(alpha=None))


def test_classes_are_rows_and_of_many_the_hardest(make, monkeypatch):
    result = make(400, classes=[f"class${i}" for i in range(10)])
    figure = classes.draw([result, make(300, name="b")], Style())
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == [rf"class\${i}" for i in range(10)]
    dots = axes.lines[0].get_xdata()
    gain = result.radius * result.correct
    assert dots == pytest.approx([gain[result.label == c].mean() for c in range(10)])
    monkeypatch.setattr(classes, "MOST_CLASSES", 3)
    figure = classes.draw([result], Style())
    hardest = sorted(np.argsort([gain[result.label == c].mean() for c in range(10)])[:3])
    shown = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert shown == [rf"class\${c}" for c in hardest]
    assert any("3 hardest of 10" in text.get_text() for text in figure.texts)


def test_training_curves():
    rows = [{"epoch": e, "loss": 2 - e / 2, "noisy_accuracy": e / 4} for e in range(3)]
    figure = training.draw({"a": rows, "b": rows[:1]}, Style(title="T"))
    loss, right = figure.axes
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert loss.lines[0].get_ydata().tolist() == [2, 1.5, 1]
    assert right.lines[1].get_marker() == "o" and right.get_ylabel().startswith("accuracy")


def test_published_figures_are_points(make):
    figure = accuracy.draw([make()], published={"paper": {0.0: 0.9, 0.25: 0.8}})
    line = figure.axes[0].lines[-1]
    assert line.get_linestyle() == "None" and line.get_ydata().tolist() == [0.9, 0.8]
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "paper"


def test_a_result_may_have_none_of_the_classes_that_are_drawn(make, monkeypatch):
    result = make(400)
    easiest = max(by_class(result), key=lambda part: part.acr)
    monkeypatch.setattr(classes, "MOST_CLASSES", 3)
    (axes,) = classes.draw([result, easiest], Style()).axes
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 0]
