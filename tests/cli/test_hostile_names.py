"""One name that commands a terminal, a page and a table goes through every command as text."""

import logging
import re
import shlex
import shutil

import numpy as np
import pytest
from command_line import command
from PIL import Image
from real_files import CERTIFIED, certify_run

from rsray.results import formats, table
from rsray.results.certificates import Certificates
from rsray.screen import Screen

NAME = "a\x1b]0;owned\x07\x1b[2J\u202e|<b>&$[red]`\x9b"
ASKED = [f"--{name.replace('_', '-')}={value}" for name, value in CERTIFIED.items()]


@pytest.fixture(scope="module")
def at(tmp_path_factory, trained):
    """A RUN, a CERT and pictures, all of that name."""
    at = tmp_path_factory.mktemp("names")
    shutil.copytree(trained, at / NAME)
    certify_run(at / NAME, at / f"{NAME}-cert")
    for label in (NAME, f"{NAME}2"):
        for i in range(6):
            place = at / f"{NAME}-data" / label
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(place / f"{NAME}{i}.png")
    (at / f"{NAME}.yaml").write_text(f"cluster_name: {ascii(NAME)}\n")
    return at


def lines(at):
    run, cert, data = (at / f"{NAME}{end}" for end in ("", "-cert", "-data"))
    own = ["--dataset", "imagefolder", "--data-root", data]
    return [
        ["train", *own, "--out", at / f"{NAME}-new"],
        ["train", "--dataset", NAME], ["train", *own, "--set", NAME], ["train", "--config", run],
        ["tune", *own, "--out", at / f"{NAME}-tune"], ["tune", *own, "--search", f"{NAME}=log(1,2)"],
        ["predict", run, "--n", 20, "--limit", 2], ["predict", run, *own, "--n", 20],
        ["certify", run, "--out", cert, *ASKED], ["certify", run, "--out", run],
        ["verify", cert], ["verify", run], ["audit", cert, run], ["audit", cert, data],
        ["recertify", cert, "--alpha", "0.06", "--out", at / f"{NAME}-again"],
        *(["report", cert, "--format", kind] for kind in ("table", "markdown", "latex", "csv")),
        ["report", cert, "--label", NAME, "--by-class", "--html", at / f"{NAME}.html"],
        ["report", data], ["report", cert, "--plot", at / f"{NAME}.jpg"],
        ["presets", NAME], ["doctor", "--no-ray", "--data-root", data],
        ["data", "convert", data, "--out", at / f"{NAME}-shards"],
        ["cluster", "status", at / f"{NAME}.yaml"], ["cluster", "down", NAME], [NAME],
        ["cluster", "submit", at / f"{NAME}.yaml", NAME], ["certify", f"--{NAME}"],
    ]  # fmt: skip


def is_text(shown):
    return [c for c in shown if not c.isprintable() and c not in "\n\t"] == []


def test_no_command_shows_it_as_anything_but_text(at, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for line in lines(at):
        result = command(*line)
        assert result.status in (0, 2), result
        assert is_text(result.out) and is_text(result.err), result
        for hint in (line for line in result.err.splitlines() if "next: rsray" in line):
            words = shlex.shlex(hint, posix=True, punctuation_chars=True)
            assert not {"|", "&", "<", ">"} & set(words), "what is pasted into a shell is quoted"
    page = (at / f"{NAME}.html").read_text()
    assert is_text(page) and "<b>" not in page


def test_the_log_shows_it_as_text(at, capsys, monkeypatch):
    command("presets", "mnist")  # sets the log up
    record = logging.makeLogRecord({"msg": "%s is odd", "args": (NAME,), "levelno": logging.ERROR})
    shown = logging.lastResort.format(record)
    assert is_text(shown) and "owned" in shown


def test_a_bar_shows_a_failed_trial_as_text(monkeypatch):
    from rich.console import Console
    from rich.progress import Progress

    from rsray.distributed.search.watch import TrialEvent

    console = Console(record=True, width=200, force_terminal=False, file=open("/dev/null", "w"))
    with Progress(console=console, disable=False) as shown:
        screen = Screen(shown)
        screen.phase("search")
        screen.trial(TrialEvent("failed", 1, 2, {"key": NAME}, error=NAME))
    text = console.export_text()
    assert is_text(text) and "[red]" in text


@pytest.mark.parametrize("name", ["a|b", "<img src=x>", "[x](http://y)", "`x`", "back\\|slash"])
def test_a_markdown_row_keeps_its_cells(name):
    two = np.arange(2)
    columns = {
        "index": two, "label": two, "prediction": two, "radius": np.array([0.5, 1.0]),
        "correct": two >= 0, "p_a_lower": two + 0.5, "p_b_upper": two + 0.1, "count_a": two + 90,
        "n0": two + 10, "n": two + 100, "skipped": two < 0,
    }  # fmt: skip
    built = table.build([Certificates(name=name, metadata={"sigma": 0.5}, **columns)])
    head, _, row = formats.markdown(built).splitlines()
    unescaped = row.replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == head.count("|")
    assert not re.search(r"<img|(?<!\\)\]\(http|(?<!\\)`x", row)
