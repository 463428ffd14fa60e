"""What a stranger calls a result or a class reaches no terminal, table or page as a command."""

import numpy as np
import pytest

from rsray import screen
from rsray.errors import printable
from rsray.results import formats, table
from rsray.results.certificates import Certificates
from rsray.results.pages import page

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
NAMES = [f"a{ESCAPE}", "line\nfeed", "tab\there", "right\u202eleft", "\x00", "del\x7f"]


def result(name):
    two, some = np.arange(2), np.array([0.9, 0.95])
    columns = {
        "index": two, "label": two, "prediction": two, "radius": np.array([0.5, 1.0]),
        "correct": two >= 0, "p_a_lower": some, "p_b_upper": 1 - some, "count_a": two + 90,
        "n0": two + 10, "n": two + 100, "skipped": two < 0,
    }  # fmt: skip
    return Certificates(name=name, metadata={"sigma": 0.5, "note": name}, **columns)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_shows_it_as_text(name):
    built = table.build([result(name)])
    shown = [write(built) for write in formats.TEXT_FORMATS.values()]
    shown.append(page.build([result(name)], warnings=[name]))
    for text in shown:
        assert not any(ord(c) < 32 and c != "\n" for c in text)
        assert "\u202e" not in text and "\x7f" not in text and "line\nfeed" not in text


def test_a_line_for_people_keeps_its_ends_alone(capsys):
    screen.say(f"one\ntwo{ESCAPE}")
    assert capsys.readouterr().err == "one\ntwo\\x1b]0;owned\\x07\\x1b[2J\n"


def test_names_in_any_alphabet_stay():
    for name in ("Löwe", "猫", "çà", "emoji 🐈", "a b"):
        assert printable(name) == name
