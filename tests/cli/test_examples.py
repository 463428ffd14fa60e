"""The example in each command's help runs as it stands there."""

import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from rsray_cli.main import app

SCRIPT = "from rsray_cli.main import run; run()"
# In an order in which each finds what the one before it made.
IN_ORDER = [
    "train",
    "certify",
    "recertify",
    "export",
    "verify",
    "audit",
    "show",
    "predict",
    "plan",
    "report",
    "tune",
    "presets",
    "doctor",
]


def example_of(command):
    """Return the words of the example in a command's help, without `rsray`."""
    (text,) = re.findall(r"Example: rsray (.+)", command.callback.__doc__)
    return shlex.split(text.split(";")[0])


EXAMPLES = {command.callback.__name__: example_of(command) for command in app.registered_commands}


def test_every_command_has_an_example():
    assert sorted(EXAMPLES) == sorted(IN_ORDER)
    assert all(words[0] == name for name, words in EXAMPLES.items())


@pytest.mark.slow
def test_the_examples_run(tmp_path):
    for name in IN_ORDER:
        words = [sys.executable, "-c", SCRIPT, *EXAMPLES[name]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, (name, done.stderr[-2000:])
        assert done.stdout, name


def test_the_example_of_data_convert(tmp_path, monkeypatch):
    from rsray_cli.data import data

    (command,) = data.registered_commands
    words = example_of(command)
    for number in range(3):
        folder = tmp_path / "pictures" / "train" / f"class-{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "one.png")
    words = [str(tmp_path / "pictures") if word.startswith("/") else word for word in words]
    words = ["shards" if "://" in word else word for word in words]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "shards").iterdir())
