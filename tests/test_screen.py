"""What people see while a certification runs."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from rsray import screen
from rsray.distributed.search.watch import TrialEvent
from rsray.progress import duration
from rsray.screen import CertifyBar, Screen, bars
from rsray.training.loop import Progress as Step

NOW = {
    "images_done": 1234, "images": 10_000, "draws": 250, "draws_owed": 1000, "draws_per_second": 41_234.5,
    "acr": 1.2345, "acr_standard_error": 0.0321, "seconds_left": 600.0,
}  # fmt: skip


def shown(now):
    """The figures, and how far the bar is, of a progress line on a terminal."""
    screen = Console(file=io.StringIO(), force_terminal=True)
    with Progress(TextColumn("{task.fields[figures]}"), console=screen) as progress:
        bar = CertifyBar(progress)
        bar(now)
        (task,) = progress.tasks
        return task.fields["figures"], task.percentage


def test_the_line_has_images_speed_acr_with_its_error_and_time_left():
    figures, percentage = shown(NOW)
    assert figures.split("  ") == [
        "1,234/10,000 images", "41,234 draws/s", "ACR 1.234 ± 0.032", "10 min left",
    ]  # fmt: skip
    assert percentage == 25.0


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ({"acr": None, "acr_standard_error": None}, "ACR"),
        ({"acr_standard_error": None}, "±"),
        ({"seconds_left": None}, "left"),
        ({"draws_per_second": 0.0}, "draws/s"),
    ],
)
def test_what_is_not_known_yet_is_left_out(change, absent):
    assert absent in shown(NOW)[0]
    assert absent not in shown({**NOW, **change})[0]


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    with bars() as progress:
        CertifyBar(progress)(NOW)
    assert capsys.readouterr() == ("", "")


def test_durations():
    assert [duration(each) for each in (3, 89, 90, 5399, 7200)] == [
        "3 s", "89 s", "2 min", "90 min", "2.0 h",
    ]  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    return now


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_a_certification_says_a_line_a_minute_or_every_twentieth(clock, capsys):
    with bars() as shown:
        bar = CertifyBar(shown)
        bar({**NOW, "draws": 0})
        clock[0] += 59
        bar({**NOW, "draws": 40})
        assert lines_of(capsys) == []
        clock[0] += 2
        bar({**NOW, "draws": 41})
        (line,) = lines_of(capsys)
        assert line == "1,234/10,000 images  41,234 draws/s  ACR 1.234 ± 0.032  10 min left"
        clock[0] += 4
        bar({**NOW, "draws": 95})  # far, but a moment after the last line
        assert lines_of(capsys) == []
        clock[0] += 2
        bar({**NOW, "draws": 96})
        assert len(lines_of(capsys)) == 1


def test_without_a_terminal_a_training_says_lines_within_a_long_epoch(clock, capsys):
    row = {"epoch": 0, "loss": 1.25, "noisy_accuracy": 0.5, "draws_per_second": 1000.0}
    with bars() as shown:
        told = Screen(shown)
        told.training(Step(0, 90, 0, 5000))
        clock[0] += 61
        told.training(Step(0, 90, 500, 5000))
        assert lines_of(capsys) == ["epoch 1/90  step 500/5,000  15.2 h left"]
        told.training(Step(0, 90, 1, 1, row))
        (line,) = lines_of(capsys)
        assert line == "epoch 1/90  loss 1.2500  noisy accuracy 50.0%  1,000 draws/s"
        told.training(Step(0, 90, 1, 1, {**row, "images_dropped": 1200}))
        (line,) = lines_of(capsys)
        assert "  noisy accuracy 50.0%  1,200 images dropped  1,000 draws/s" in line
        clock[0] += 59
        told.training(Step(1, 90, 500, 5000))
        clock[0] += 1
        told.training(Step(1, 90, 501, 5000))
        (line,) = lines_of(capsys)
        assert line.startswith("epoch 2/90  step 501/5,000  loss 1.2500  ")
        clock[0] += 61
        told.training(Step(2, 90, 800, 6000, is_weighing=True))
        assert lines_of(capsys) == ["epoch 3/90  weighing images 800/6,000"]


def test_without_a_terminal_a_search_says_that_its_trials_are_under_way(clock, capsys):
    event = TrialEvent("report", 2, 20, {}, best=0.5, running="2 running, last looks at epoch 3, 0")
    with bars() as shown:
        told = Screen(shown)
        told.phase("search")
        told.trial(event)
        clock[0] += 60
        told.trial(event)
        assert lines_of(capsys) == [
            "phase: search",
            "2/20 trials  best projected ACR 0.500  2 running, last looks at epoch 3, 0",
        ]


def test_a_trial_that_ended_is_called_as_in_the_table(capsys):
    with bars() as shown:
        told = Screen(shown)
        told.phase("search")
        told.trial(TrialEvent("done", 2, 20, {"lr": 0.1}, number=7, epoch=8, acr=0.5))
    assert lines_of(capsys)[-1] == "trial 7 (2/20 done): lr 0.1: projected ACR 0.500 at epoch 8"


SHOW = """
from rsray.screen import CertifyBar, TrainingBar, bars
from rsray.training.loop import Progress
row = {"epoch": 89, "loss": 12.5, "noisy_accuracy": 1.0, "draws_per_second": 123456.0}
now = {"images_done": 10000, "images": 10000, "draws": 9, "draws_owed": 10, "acr": 1.2345,
       "draws_per_second": 141234.5, "acr_standard_error": 0.0321, "seconds_left": 5000.0}
with bars() as shown:
    CertifyBar(shown)(now)
    TrainingBar(shown)(Progress(89, 90, 1, 1, row))
"""


def test_on_80_columns_nothing_is_cut_off():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    environment["TERM"] = "xterm"
    subprocess.run(
        [sys.executable, "-c", SHOW], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        check=True,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 1_000_000).decode()
    os.close(ours)
    assert "10,000/10,000 images  141,234 draws/s  ACR 1.234 ± 0.032  83 min left" in shown
    assert "epoch 90/90  loss 12.5000  noisy accuracy 100.0%  123,456 draws/s" in shown


def test_a_silent_minute_ends_in_a_line_where_there_is_no_terminal(capsys, monkeypatch):
    """An image of --at-radius may take minutes, and so may the images' weights in a training."""
    monkeypatch.setattr(screen, "LINE_EVERY_SECONDS", 0.3)
    monkeypatch.setattr(screen, "LOOK_EVERY_SECONDS", 0.05)
    with bars() as shown:
        CertifyBar(shown)(NOW)
        for _ in range(8):
            time.sleep(0.1)
            screen.say("a word")
        assert "still" not in capsys.readouterr().err
        time.sleep(0.8)
    told = capsys.readouterr().err.splitlines()
    assert told and set(told) == {
        "certify, still at: 1,234/10,000 images  41,234 draws/s  ACR 1.234 ± 0.032  10 min left"
    }
    time.sleep(0.5)
    assert capsys.readouterr().err == ""
