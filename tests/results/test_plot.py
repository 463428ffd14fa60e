import numpy as np
import pytest
from matplotlib.colors import to_hex

from rsray.errors import UserError
from rsray.results.plots import accuracy as plot
from rsray.results.plots import style


def test_curve_is_the_exact_step_function(make):
    result = make()
    radius, accuracy = plot.curve(result)
    for at in np.concatenate([[0.0], np.linspace(1e-9, 1.3, 200), result.radius[result.correct]]):
        expected = sum(result.correct & (result.radius >= at)) / len(result)
        corner = np.searchsorted(radius, at, side="left")  # steps-pre: the corner to the right
        drawn = accuracy[corner] if corner < len(radius) else 0.0
        assert drawn == pytest.approx(expected, abs=1e-12)


def test_figure_names_axes_and_acr(make):
    results = [make(30 + i, name=f"result {i} costs $") for i in range(9)]
    figure = plot.draw(results)
    (axes,) = figure.axes
    assert "radius" in axes.get_xlabel() and "accuracy" in axes.get_ylabel()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    acr = np.mean(results[0].radius * results[0].correct)
    assert texts[0] == rf"result 0 costs \$ (ACR {acr:.3f})"
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(axes.lines) == 9


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml")]
)
def test_files(tmp_path, make, suffix, magic):
    style.save(plot.draw([make()]), tmp_path / f"curve{suffix}")
    assert (tmp_path / f"curve{suffix}").read_bytes().startswith(magic)


def test_other_suffixes(tmp_path, make):
    for name in ("curve.jpg", "curve"):
        with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
            style.save(plot.draw([make()]), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_run_that_decided_a_few_radii_is_points(make):
    decided = make(name="few", at_radius=[0.3, 0.75])
    figure = plot.draw([decided, make()])
    line, curve = figure.axes[0].lines
    assert line.get_linestyle() == "None" and line.get_marker() == "o" != curve.get_marker()
    assert line.get_xdata().tolist() == [0.3, 0.75]
    shares = [np.mean(decided.correct & (decided.radius >= at)) for at in (0.3, 0.75)]
    assert line.get_ydata().tolist() == pytest.approx(shares)
    few, whole = (text.get_text() for text in figure.legends[0].get_texts())
    assert few == "few" and "ACR" in whole


def test_nothing_certified(make):
    result = make(6)
    for name in ("radius", "correct"):
        getattr(result, name)[:] = 0
    assert style.render(plot.draw([result]), ".png")


def test_a_failed_image_lowers_the_curve(make, without):
    whole = make()
    image = int(whole.index[whole.correct][0])
    _, accuracy = plot.curve(without(whole, image))
    assert accuracy[0] == (whole.correct.sum() - 1) / 40
