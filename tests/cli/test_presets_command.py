"""`rsray presets`: every preset is listed once, and what is shown of one runs."""

import re

import pytest
import typer
import yaml
from typer.testing import CliRunner

from rsray.config import CertifyConfig
from rsray.presets import preset, presets, train_config
from rsray_cli.presets import presets as command


@pytest.fixture
def listed(monkeypatch):
    """Return a function that runs `rsray presets ARGUMENTS...` and gives its output."""

    def call(*arguments, columns=None):
        app = typer.Typer()
        app.command()(command)
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
        else:
            monkeypatch.delenv("COLUMNS", raising=False)
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    return call


def rows(output):
    """Return {preset: its line}; a{1,2}b stands for a1b and a2b, as in a shell."""
    found = {}
    for line in output.splitlines():
        first = line.split(" ")[0]
        shape = re.fullmatch(r"(.*)\{(.*)\}(.*)", first)
        names = (
            [f"{shape[1]}{value}{shape[3]}" for value in shape[2].split(",")] if shape else [first]
        )
        for name in names:
            if name in presets():
                assert name not in found, "listed twice"
                found[name] = line
    return found


def test_all_are_listed_with_cost_and_figure(listed):
    output = listed()
    found = rows(output)
    assert list(found) == list(presets())
    for name, entry in presets().items():
        assert entry.cost in found[name] and entry.figure.split(" ")[0] in found[name], name
        assert (entry.source or "") in found[name], name
        assert (" * " in found[name]) == bool(entry.differs), name
        assert output.count(f"{entry.paper}\n") == 1, "a heading for each paper"
    assert output.count("\n") < 220, "presets that vary one setting share a row"


def test_a_row_of_several_has_their_figures_in_order(listed):
    found = rows(listed())
    for names in (
        [f"macer-cifar10-0.25-lambda{value}" for value in (0, 1, 2, 4, 8, 16)],
        [f"adre-cifar10-0.50-lambda{value}" for value in (0.1, 0.2, 0.3)],
    ):
        figures = " ".join(preset(name).figure.split(" ")[0] for name in names)
        assert {found[name] for name in names} == {found[names[0]]}
        assert f" {figures} " in found[names[0]]
    assert "50% 48% 49% at 0.5" in found["adre-cifar10-0.25-lambda0.1"]


@pytest.mark.parametrize(
    ("part", "belongs"),
    [
        ("mnist", lambda name: preset(name).settings["dataset"] == "mnist"),
        ("fashion-mnist", lambda name: "-fashion-mnist-" in name),
        ("macer-cifar10", lambda name: name.startswith("macer-cifar10-")),
        ("1.00", lambda name: "-1.00" in name),
        ("imagenet", lambda name: "-imagenet-" in name),
    ],
)
def test_a_part_of_the_name_selects(part, belongs, listed):
    assert list(rows(listed(part))) == [name for name in presets() if belongs(name)]


def test_a_narrow_terminal_keeps_the_names(listed):
    assert list(rows(listed("macer", columns=80))) == [
        entry.name for entry in presets().values() if entry.settings["objective"] == "macer"
    ]


@pytest.mark.parametrize("name", presets())
def test_one_in_full_is_a_configuration_file(name, listed):
    output, entry = listed(name), preset(name)
    head = [line for line in output.splitlines() if line.startswith("# ")]
    assert head[0] == f"# rsray train --preset {name}" and head[1] == f"# cost: {entry.cost}"
    assert head[-1] == f"# paper: {entry.paper}"
    assert (f"# differs: {entry.differs}" in head) == bool(entry.differs)
    shown = train_config({}, base=yaml.safe_load(output))
    assert shown.identity() == train_config({}, preset_name=name).identity()
    assert re.search(r"ACR \d|no figure|no ACR; certified accuracy 0", head[2])


def test_the_images_of_the_figure_are_named(listed):
    output = listed("macer-cifar10-0.50")
    assert "# published: ACR 0.726 (MACER table 1)" in output
    assert "# certified accuracy: 0.66 at 0, 0.60 at 0.25, 0.53 at 0.5, 0.46 at 0.75," in output
    assert "0.771 at 0, 0.679 at 0.25, 0.579 at 0.5" in listed("smoothmix-cifar10-0.25")
    assert "no ACR; certified accuracy 0.78 at 0, 0.64 at" in listed("adre-cifar10-0.25-lambda0.1")
    assert "# then: rsray certify RUN --start 500 --limit 500\n" in output
    assert "# then: rsray certify RUN\n" in listed("macer-mnist-0.25-90")
    assert "# then" not in listed("macer-digits")
    assert {"start", "limit"} <= set(CertifyConfig.model_fields)
