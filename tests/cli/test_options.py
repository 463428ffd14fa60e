"""Every option of every command with values that are none: one line, and nothing starts."""

import os
import shutil

import pytest
import typer
from command_line import NO_RAY, command

from rsray_cli.main import app

BEYOND = ["1e20", "1e300", "99999999999999999999"]
NO_NUMBER = ["", " ", "\udcff", "nan", "inf", "-inf", "-1", *BEYOND, "~nosuchuser/x", "ftp://x/y"]
NO_TEXT = ["", " ", "\udcff"]
NO_PLACE = [*NO_TEXT, "~nosuchuser/x", "ftp://x/y", "s3://", "gs://", "nosuch://x"]
# Options whose value is a file or a folder; what it must not be.
PLACES = {
    "out": ["file", "pipe"], "data_root": [], "config": ["folder", "pipe"], "plot": ["folder"],
    "html": ["folder"], "export_cohen": ["folder"], "reuse": ["folder", "file", "pipe"],
    "run": ["folder", "file", "pipe"], "png": ["folder"], "leaderboard": ["file", "pipe"],
    "reuse_model": [], "cluster": ["folder", "pipe", "file"],
    "source": ["folder", "file", "pipe"], "cert": ["folder", "file", "pipe"],
    "certs": ["folder", "file", "pipe"], "paths": ["folder", "file", "pipe"],
    "yaml": ["folder", "file", "pipe"], "target": ["folder", "file", "pipe"],
}  # fmt: skip
# What each command is given beside the option that is looked at; {at} is where things are.
LINES = {
    "train": "--dataset digits", "tune": "--dataset digits", "certify": "{at}/run",
    "recertify": "{at}/run", "verify": "{at}/run", "audit": "{at}/run {at}/run", "plan": "{at}/run",
    "predict": "{at}/run", "report": "{at}/run", "presets": "",
    "export": "{at}/run", "show": "{at}/run --index 0", "doctor": "--no-ray",
    "data convert": "{at}/folder", "cluster up": "", "cluster status": "", "cluster submit": "",
    "cluster attach": "", "cluster down": "",
}  # fmt: skip
NAMES_OF_COMMANDS = sorted(LINES)


def commands():
    """Yield the name and the parameters of each command."""
    waiting = [("", typer.main.get_command(app))]
    while waiting:
        name, found = waiting.pop()
        inside = getattr(found, "commands", {})
        waiting += [(f"{name} {each}".strip(), inside[each]) for each in inside]
        if not inside:
            yield name, [each for each in found.params if each.name != "help"]


def bad_values(name, parameter, at):
    """Return values that no option of this command, type and name may have."""
    known = getattr(parameter, "type", None)  # where typer has left click behind
    kind = known.name if known else parameter.type_descriptor.annotation.__name__
    if getattr(parameter, "is_flag", False):
        return []
    if kind in ("integer", "int", "float"):
        return NO_NUMBER
    if parameter.name in PLACES:
        # predict writes a file there, and may write it again.
        things = (
            ["folder"] if (name, parameter.name) == ("predict", "out") else PLACES[parameter.name]
        )
        return [*NO_PLACE, *(f"{at}/{thing}" for thing in things)]
    return NO_TEXT


def lines_of(name, parameters, at):
    """Yield each line of a command with one bad value."""
    usual = LINES[name].format(at=at).split()
    for each in parameters:
        for value in bad_values(name, each, at):
            if each.param_type_name == "argument":
                others = [word for word in usual if word != f"{at}/run"]
                yield [*name.split(), *others, "--", value, *[f"{at}/run"] * (each.name == "cert")]
            else:
                option = max(each.opts, key=len)
                usual_but = usual if option not in usual else []
                yield [*name.split(), *usual_but, f"{option}={value}"]


@pytest.fixture(scope="module")
def at(tmp_path_factory, trained):
    root = tmp_path_factory.mktemp("options")
    shutil.copytree(trained, root / "run")
    (root / "folder").mkdir()
    (root / "folder" / "notes.txt").write_text("")
    (root / "file").write_text("hello\n")
    os.mkfifo(root / "pipe")
    return root


def complaint(words):
    """Return what is wrong with the answer to a line; nothing where it is one line and exit 2."""
    result = command(*words)
    if NO_RAY in result.err:
        return "starts Ray"
    is_one_line = result.err.startswith("error: ") and result.err.count("\n") == 1
    if result.status == 2 and is_one_line and not result.out:
        return ""
    return f"status {result.status}: {(result.out + result.err)[-200:]}"


def test_every_command_is_looked_at():
    assert {name for name, _ in commands()} == set(LINES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES_OF_COMMANDS)
def test_no_bad_value_starts_anything(name, at, tmp_path, monkeypatch):
    check_values(list(lines_of(name, dict(commands())[name], at)), at, tmp_path, monkeypatch)


def test_some_bad_values_start_nothing(at, tmp_path, monkeypatch):
    every = [words for name, found in commands() for words in lines_of(name, found, at)]
    check_values(every[::29], at, tmp_path, monkeypatch)


def check_values(every, at, tmp_path, monkeypatch):
    assert every
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSRAY_DATA_ROOT", raising=False)
    before = sorted(at.rglob("*"))
    found = {}
    for words in every:
        said = complaint(words)
        if said:
            found[" ".join(words).encode(errors="backslashreplace").decode()] = said
    assert found == {}
    assert list(tmp_path.iterdir()) == [] and sorted(at.rglob("*")) == before


NAMED = [
    "certify {at}/run --n 100000000000", "certify {at}/run --sigma 1e300", "certify {at}/run --actors 1e20",
    "certify {at}/run --sigma 1e-300", "certify {at}/run --at-radius ,", "train --dataset digits --sigma 5e-324",
    "certify {at}/run --down", "train --dataset digits --down", "tune --dataset digits --down",
    "certify {at}/run --n 1000000 --block-size 1", "certify {at}/run --at-radius 1e300",
    "train --dataset digits --workers 1-99999999999", "train --dataset digits --set lr=1e300",
    "train --dataset digits --set num_draws=99999999999999999999", "train --dataset digits --set epochs=1e20",
    "tune --dataset digits --search trade_off=log(1,1e300)", "report {at}/run --radii 1e-9",
    "train --dataset digits --set lr=!!int", "tune --dataset digits --grid trade_off=&a,*a",
]  # fmt: skip


@pytest.mark.parametrize("line", NAMED)
def test_what_was_found_once_is_refused(line, at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert complaint(line.format(at=at).split()) == ""
    assert list(tmp_path.iterdir()) == []
