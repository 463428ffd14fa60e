"""What every format of a table shows beside its figures: the best, the title, the notes."""

import csv
import io

import numpy as np
import pytest
import rich.console

from rsray.errors import UserError
from rsray.results import formats, table
from rsray.results.formats import Table
from rsray.results.table import Layout

NOTE = "n differs: 1000 (a), <100> & more_| (b)"


@pytest.fixture
def two(make):
    return [make(name="a"), make(50, name="b")]


def terminal(shown, **how):
    console = rich.console.Console(width=300, file=io.StringIO(), record=True)
    console.print(formats.rich_table(shown, width=300, **how))
    return console.export_text(styles=True)


def test_notes_and_title_stand_in_every_format(two):
    shown = table.build(two, Layout(title="Two & more", notes=(NOTE,)))
    markdown, latex, comma = (formats.TEXT_FORMATS[f](shown) for f in formats.TEXT_FORMATS)
    assert "**Two & more**" in markdown and "&lt;100> & more_\\|" in markdown.splitlines()[-1]
    assert r"\caption{Two \& more}" in latex and r"100> \& more\_|" in latex
    assert all(row["notes"] == NOTE for row in csv.DictReader(io.StringIO(comma)))
    assert NOTE in terminal(shown, has_notes=True) and NOTE not in terminal(shown)
    assert "Two & more" in terminal(shown)


def test_notes_are_as_wide_as_the_terminal_whatever_the_table_is():
    note = "of the images whose radii differ: " + "word " * 12
    narrow = Table(["a"], [[1]], notes=(note,), caption="a caption of more than one word")
    console = rich.console.Console(width=80, file=io.StringIO(), record=True)
    console.print(formats.rich_table(narrow, width=80, has_notes=True))
    lines = console.export_text().splitlines()
    assert "a caption of more than one word" in lines and max(map(len, lines)) > 70


def test_the_best_of_each_column_is_bold(two):
    shown = table.build(two)
    best = int(np.argmax([result.acr for result in two]))
    at = shown.header.index("ACR")
    assert (best, at) in shown.best and (1 - best, at) not in shown.best
    text = shown.cells()[best][at]
    assert f"**{text}**" in formats.markdown(shown) and rf"\textbf{{{text}}}" in formats.latex(
        shown
    )
    assert f"\x1b[1m{text}\x1b[0m" in terminal(shown)
    assert not {column for _, column in shown.best} & {shown.header.index("images")}
    assert "**" not in formats.markdown(table.build(two[:1]))
    assert "**" not in formats.markdown(table.build(two, Layout(marks_best=False)))


def test_all_that_are_printed_alike_are_best(make):
    one = make(name="one")
    shown = table.build([one, make(name="same")])
    columns = {column for row, column in shown.best if row == 0}
    assert columns == {column for row, column in shown.best if row == 1} != set()


def test_figures_of_a_result(make, without):
    result = without(make(seconds=7.5), 3)
    row = dict(zip(*(lambda t: (t.header, t.values()[0]))(table.build([result])), strict=True))
    gain = np.append(result.radius * result.correct, 0.0)
    assert row["error"] == pytest.approx(gain.std(ddof=1) / np.sqrt(40))
    assert row["abstained"] == np.sum(result.prediction < 0) and row["failed"] == 1
    assert row["draws"] == 39 * 1100 and row["seconds"] == 7.5


def test_columns_are_chosen_and_rows_sorted(two):
    layout = Layout(columns=("ACR", "radii", "clean"), sort="ACR", radii=(0.1, 0.3))
    shown = table.build(two, layout)
    assert shown.header == ["result", "ACR", "0.10", "0.30", "clean"]
    acr = [row[1] for row in shown.values()]
    assert acr == sorted(acr, reverse=True)
    assert [row[0] for row in table.build(two[::-1], Layout(sort="result")).rows] == ["a", "b"]
    by_radius = [row[3] for row in table.build(two, Layout(sort="0.25")).values()]
    assert by_radius == sorted(by_radius, reverse=True)
    span = [line for line in formats.latex(shown).splitlines() if "multicolumn" in line]
    assert span[0].startswith(r" & & \multicolumn{2}") and r"\cmidrule(lr){3-4}" in formats.latex(
        shown
    )
    for layout in (Layout(columns=("speed",)), Layout(sort="0.33")):
        with pytest.raises(UserError, match="choose one of"):
            table.build(two, layout)
    assert "0.00" not in formats.latex(table.build(two, Layout(columns=("ACR",))))


def test_without_the_radius_0_the_clean_accuracy_has_a_column(two):
    header = table.build(two, Layout(radii=(0.5,))).header
    assert "clean" in header and "clean" not in table.build(two).header


def test_what_is_unknown_stays_last_and_empty(make):
    few = make(name="few", at_radius=[0.25])
    shown = table.build([few, make(name="all")], Layout(sort="ACR"))
    assert [row[0] for row in shown.rows] == ["all", "few"]
    plain = Table(["run", "loss"], [["a_b", 0.123456], ["c", None]])
    assert plain.cells() == [["a_b", "0.1235"], ["c", "-"]] and r"a\_b" in formats.latex(plain)
