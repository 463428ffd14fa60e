"""What people see while a certification runs."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from rsray.progress import duration
from rsray.screen import CertifyBar, bars

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
