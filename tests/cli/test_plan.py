import re
import subprocess
import sys

import pytest
import torch
from command_line import command

from rsray.distributed.train.trainer import train
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.run_folder.run import open_training_split
from rsray_cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "run"
    config = train_config({"dataset": "digits", "objective": "gaussian", "epochs": 4, "lr": 0.1})
    train(config, Place.of(folder), open_training_split(config))
    return folder


def plan(*arguments):
    script = "from rsray_cli.main import run; run()"
    return subprocess.run(
        [sys.executable, "-c", script, "plan", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def number(text, name):
    return float(re.search(rf"{name}\s+\$?([\d,.]+)", text).group(1).replace(",", ""))


def test_a_plan_counts_draws_hours_and_dollars(run):
    shown = plan(
        run, "--n", 10_000, "--actors", 4, "--price", 3, "--seconds", 0.5, "--compile", "off"
    )
    assert shown.returncode == 0, shown.stderr
    assert number(shown.stdout, "images") == 450
    assert number(shown.stdout, "draws  ") == 450 * 10_100
    speed = number(shown.stdout, "one actor")
    hours = 450 * 10_100 / speed / 3600
    assert number(shown.stdout, "core-hours") == pytest.approx(hours, abs=0.006)
    expected = (hours / 4 + 15 / 3600) * 4 * 3
    assert number(shown.stdout, "cost") == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_skip_is_planned_from_what_the_selection_says(run):
    shown = plan(run, "--n", 10_000, "--sampling", "skip", "--seconds", 2, "--compile", "off")
    each = number(shown.stdout, "draws per image")
    assert 100 < each < 10_100  # some digits are missed, so some draws are saved


@pytest.mark.slow
def test_radii_are_planned_by_an_estimate(run):
    shown = plan(
        run, "--at-radius", "0.1,0.25", "--n", 10_000, "--seconds", 2, "--compile", "off",
        "--gpus-per-actor", 0,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert 1100 <= number(shown.stdout, "draws per image") < 10_100
    assert "an estimate: draws stop once the radii are decided" in shown.stdout


@pytest.mark.slow
def test_tolerance_is_the_runs(run):
    arguments = ("--sampling", "adaptive", "--n", 10_000, "--seconds", 1, "--compile", "off")
    shown = plan(run, *arguments, "--tolerance", 0.9)
    assert number(shown.stdout, "draws per image") < 3000  # with 0.01 most want all 10,000


def test_a_training_run_counts_steps_hours_and_dollars():
    shown = command(
        *"plan --of train --dataset digits --objective gaussian --epochs 3 --batch-size 64".split(),
        *"--set num_draws=2 --actors 4 --price 3 --seconds 0.1 --gpus-per-actor 0".split(),
    )
    assert shown.status == 0, shown.err
    assert number(shown.out, "images  ") == 1347 and number(shown.out, "steps") == 22
    assert number(shown.out, "draws") == 1347 * 3 * 2
    hours = 1347 * 3 * 2 / number(shown.out, "one worker") / 3600
    expected = (hours / 4 + 15 / 3600) * 4 * 3
    assert number(shown.out, "cost") == pytest.approx(expected, abs=0.02)


def test_a_search_counts_its_trials_and_what_follows():
    shown = command(
        *"plan --of tune --dataset digits --objective gaussian --epochs 4 --trials 6".split(),
        *"--actors 2 --price 30 --seconds 0.1 --n 1000 --gpus-per-actor 0".split(),
    )
    assert shown.status == 0, shown.err
    assert "6 of up to 2 epochs, 2 at a time" in shown.out
    assert "to train and certify" in shown.out and number(shown.out, "cost") >= 0.25


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "give a RUN or a checkpoint, or --of train or tune"),
        ("--of train", "give --dataset, --preset or --config"),
        ("--of train --dataset digits --n 5", "--n is no option of --of train"),
        ("--of tune --dataset digits --alpha 0.1", "--alpha is no option of --of tune"),
        ("{run} --of train", "--of train takes --dataset or --preset"),
        ("{run} --epochs 3", "--epochs is no option of --of certify"),
        ("--of learn", "of 'learn' is unknown"),
        ("--of train --dataset digits --gpus-per-actor 1", "no GPU is here to be measured"),
        ("--of tune --dataset digits --gpus-per-actor 1", "that needs 1 GPUs each"),
    ],
)
def test_what_is_planned_decides_the_options(words, said, monkeypatch):
    for module in ("training.cost.default_device", "distributed.search.forecast.default_device"):
        monkeypatch.setattr(f"rsray.{module}", lambda: torch.device("cpu"))
    monkeypatch.setattr("rsray.distributed.search.forecast.usable_gpus", lambda: 0)
    result = command("plan", *words.format(run="runs/x").split())
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error: ") and said in result.err and result.err.count("\n") == 1


def test_mistakes(run, monkeypatch, capsys):
    mistakes = [["--actors", "0"], ["--seconds", "0"], ["--price", "-1"]]
    if not torch.cuda.is_available():
        mistakes.append(["--gpus-per-actor", "0.5"])
    for wrong in mistakes:
        monkeypatch.setattr(sys, "argv", ["rsray", "plan", str(run), *wrong])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            main.run()
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")
