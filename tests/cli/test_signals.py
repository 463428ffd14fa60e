"""How a command ends by signals: what is done is saved, and the exit status tells which it was."""

import signal
import subprocess
import sys
import time

import pytest

# Saving hangs, as a call into a dead Ray may.
SCRIPT = """
import sys, time
from rsray_cli import main

@main.app.command()
def work_on(saving: float) -> None:
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("saving", flush=True)
        time.sleep(saving)
        print("saved", flush=True)

main.run()
"""


def start(saving):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "work-on", str(saving)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_and_says_how_to_go_on(sent, status):
    process = start(0)
    process.send_signal(sent)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == status and "saved" in out
    assert errors.strip().endswith("the same command with the same --out continues")
    assert "Traceback" not in errors and len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_the_command_at_once(sent, status):
    process = start(60)
    process.send_signal(sent)
    assert process.stdout.readline() == "saving\n"
    # The same signal through a terminal and a wrapper is no second one.
    process.send_signal(sent)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == status and "saved" not in out
    assert "--out continues" in errors and "Traceback" not in errors


def test_what_is_to_be_ignored_stays_so():
    """As `nohup` starts a command."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(0)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
