import csv
import io

import numpy as np
import pytest
import rich.console

from rsray.errors import UserError
from rsray.results import compare, formats, table
from rsray.results.table import Layout

PUBLISHED = {
    "cifar10/cohen-resnet110-0.25": "0.429",
    "cifar10/cohen-resnet110-0.50": "0.538",
    "cifar10/cohen-resnet110-1.00": "0.542",
    "imagenet/cohen-resnet50-0.50": "0.733",
    "mnist/gaussian-0.25": "0.910",
    "mnist/gaussian-0.50": "1.559",
    "mnist/macer-0.25": "0.921",
    "mnist/macer-0.50": "1.590",
    "mnist/smoothadv-0.50": "1.687",
    "cifar10/macer-resnet20-0.50": "0.661",
}


@pytest.mark.parametrize(("log", "acr"), PUBLISHED.items())
def test_published_acr_to_the_printed_digit(reference, log, acr):
    shown = table.build([compare.load(reference / f"{log}.tsv")])
    assert shown.cells()[0][shown.header.index("ACR")] == acr


def test_published_curve(reference):
    # The percentages were counted with awk: correct == 1 and radius >= r, of 500 lines.
    shown = table.build(
        [compare.load(reference / "imagenet/cohen-resnet50-0.50.tsv")], layout=Layout(step=0.5)
    )
    assert shown.radius_labels == ["0.00", "0.50", "1.00", "1.50"]
    assert shown.cells()[0][2:6] == ["57.2", "45.8", "37.2", "28.6"]


def test_accuracy_by_brute_force(make):
    result = make()
    shown = table.build([result], layout=Layout(step=0.1))
    (row,), at_zero = shown.values(), shown.header.index("0.00")
    assert shown.header[at_zero + 13] == "ACR"  # up to 1.231
    for position, fraction in enumerate(row[at_zero : at_zero + 13]):
        at = position / 10
        assert fraction == sum(result.correct & (result.radius >= at)) / len(result)


def test_radii_reach_the_largest_of_all_results(make):
    shown = table.build([make(), make(sigma=1.0, name="b")])
    assert shown.radius_labels[-1] == "2.25"
    assert table.build([make()], layout=Layout(step=0.125)).radius_labels[:2] == ["0.000", "0.125"]


def test_a_run_that_decided_a_few_radii_has_no_other_figures(make):
    decided, whole = make(name="few", at_radius=[0.3, 0.75]), make(name="all")
    alone, both = table.build([decided]), table.build([decided, whole])
    assert alone.radius_labels == ["0.30", "0.75"]
    cells = dict(zip(both.header, both.cells()[0], strict=True))
    shown = [f"{100 * np.mean(decided.correct & (decided.radius >= r)):.1f}" for r in (0.3, 0.75)]
    assert [cells[each] for each in ("0.30", "0.75")] == shown == alone.cells()[0][2:4]
    assert [cells[each] for each in ("ACR", "0.00", "0.25", "0.50", "1.00")] == ["-"] * 5
    assert "-" not in both.cells()[1] and both.cells()[1][both.header.index("ACR")] != "-"
    rows = list(csv.DictReader(io.StringIO(formats.comma_separated(both))))
    assert rows[0]["ACR"] == rows[0]["0.25"] == "" and float(rows[0]["0.30"]) > 0
    with pytest.raises(UserError, match="radii step"):
        table.build([decided], layout=Layout(step=0.0))


@pytest.mark.parametrize("step", [0.0, -0.25, float("nan"), float("inf"), 1e-6])
def test_a_bad_step(make, step):
    with pytest.raises(UserError, match=r"radii step .* is not allowed"):
        table.build([make()], layout=Layout(step=step))


def test_csv_is_unrounded(make):
    result = make(alpha=None, n=None)
    header, row = csv.reader(io.StringIO(formats.comma_separated(table.build([result]))))
    values = dict(zip(header, row, strict=True))
    assert float(values["ACR"]) == pytest.approx((result.radius * result.correct).mean(), abs=1e-15)
    assert float(values["0.00"]) == result.correct.mean()
    assert values["alpha"] == "" and values["n"] == "1000" and values["images"] == "40"


def test_markdown_and_latex_escape_names(make):
    shown = table.build([make(name="a|b_c&50%")])
    lines = formats.markdown(shown).splitlines()
    assert lines[2].startswith("| a\\|b_c&50% | 0.50 |")
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    latex = formats.latex(shown)
    assert r"a|b\_c\&50\% & 0.50 &" in latex and r"\toprule" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    widths = [line.replace(r"\&", "").count("&") for line in body[1:]]
    assert set(widths) == {len(shown.header) - 1}
    assert body[0].count("&") + 5 - 1 == len(shown.header) - 1  # one cell spans five radii


@pytest.mark.parametrize("width", [300, 60])
def test_terminal_table_never_cuts_a_number(make, width):
    shown = table.build([make(name="[bold]first"), make(name="second", sigma=2.0)])
    console = rich.console.Console(width=width, file=io.StringIO(), record=True)
    console.print(formats.rich_table(shown, width=width))
    words = console.export_text().split()
    assert all(cell in words for row in shown.cells() for cell in row)
    assert all(label in words for label in shown.radius_labels)


def test_failed_images_are_announced_in_every_table(make, without):
    whole = make(name="whole")
    image = int(whole.index[whole.correct][0])
    result = without(make(name="short"), image)
    shown = table.build([result, whole])
    cells = [dict(zip(shown.header, row, strict=True)) for row in shown.cells()]
    assert [(row["images"], row["failed"]) for row in cells] == [("40", "1"), ("40", "0")]
    kept = whole.correct & (whole.index != image)
    assert cells[0]["0.00"] == f"{100 * kept.sum() / 40:.1f}" != cells[1]["0.00"]
    assert "failed" in formats.markdown(shown) and "Failed" in formats.latex(shown)
    rows = list(csv.DictReader(io.StringIO(formats.comma_separated(shown))))
    assert [row["failed"] for row in rows] == ["1", "0"]
    assert float(rows[0]["ACR"]) == pytest.approx(whole.radius[kept].sum() / 40, abs=1e-15)
    console = rich.console.Console(width=300, file=io.StringIO(), record=True)
    console.print(formats.rich_table(shown, width=300))
    assert "images that failed count 0" in console.export_text()
    assert "failed" not in table.build([whole]).header


def test_no_radius_is_rounded_up(make):
    asked = [0.1234567, 0.99999996, 1.25]
    shown = table.build([make(at_radius=asked)])
    assert shown.radius_labels == ["0.12345670", "0.99999996", "1.25000000"]
    finer = table.build([make(at_radius=[0.12345678949])])
    assert finer.radius_labels == ["0.123456789"]
    steps = table.build([make()], layout=Layout(step=0.1234565))
    assert [float(label) for label in steps.radius_labels] == steps.radii.tolist()
