"""The command line as far as it goes without Ray: mistakes in one line, predict."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

import rsray
from rsray.certification import predictions
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.networks.opening import open_source
from rsray.core.smoothed import SmoothedClassifier
from rsray.data import open_split
from rsray.presets import train_config
from rsray.results.certificates import write_certificates
from rsray.storage import Place
from rsray.training.loop import Training
from rsray.training.run_folder.run import claim_run, open_training_split
from rsray_cli.main import run

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def rsray_command(monkeypatch, capsys):
    """Return a function that runs `rsray ARGUMENTS...` here, with ray out of reach."""

    def call(*arguments):
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.setattr(sys, "argv", ["rsray", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run()
        return Result(stopped.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a trained digits RUN and with things that are none; tests do not change it."""
    root = tmp_path_factory.mktemp("cli")
    config = train_config(
        {"dataset": "digits", "objective": "gaussian", "epochs": 3, "lr": 0.1, "precision": "fp32"}
    )
    folder = Place.of(root / "run")
    claim_run(folder, config, open_training_split(config), CPU)
    Training(config, folder, CPU).run_epochs()
    unfinished = Place.of(root / "unfinished")
    claim_run(unfinished, config, open_training_split(config), CPU)
    (root / "folder").mkdir()
    (root / "folder" / "thesis.tex").write_text("")
    (root / "text.txt").write_text("hello\n")
    (root / "text.tsv").write_text("hello\n")
    (root / "text.pth").write_text("hello\n")
    (root / "text.parquet").write_text("hello\n")
    (root / "text.safetensors").write_text("hello\n")
    save_file({"weight": torch.zeros(2, 2)}, root / "other.safetensors")
    (root / "odd.safetensors").write_bytes(save({"weight": torch.zeros(2)}, {"rsray": "no JSON"}))
    (root / "list.safetensors").write_bytes(save({"weight": torch.zeros(2)}, {"rsray": "[1]"}))
    with safe_open(root / "run" / "model.safetensors", "pt") as whole:
        # Finite, but so large that sums of them are not.
        weights = {name: whole.get_tensor(name) * 1e30 for name in whole.keys()}
        save_file(weights, root / "nan.safetensors", whole.metadata())
    (root / "broken.yaml").write_text("a: [\n")
    (root / "list.yaml").write_text("- 1\n")
    (root / "unknown.yaml").write_text("dataset: digits\ntradeoff: 1\n")
    _write_cert(root / "cert")
    return root


def _write_cert(folder):
    columns = {
        "index": np.arange(4), "label": np.zeros(4), "prediction": np.zeros(4), "radius": np.ones(4),
        "correct": np.ones(4, dtype=bool), "p_a_lower": np.full(4, 0.9), "p_b_upper": np.full(4, 0.1),
        "count_a": np.full(4, 99), "n0": np.full(4, 10), "n": np.full(4, 100),
        "skipped": np.zeros(4, dtype=bool),
    }  # fmt: skip
    write_certificates(folder / "certificates.parquet", columns, {"sigma": 0.25, "alpha": 0.001})
    (folder / "summary.json").write_text(json.dumps({"acr": 1.0}))


# The command, and what its one line must name.
MISTAKES = [
    ("nosuch", "nosuch"),
    ("--nosuch", "--nosuch"),
    ("train --nosuch", "--nosuch"),
    ("train --epochs many", "--epochs"),
    ("train --epochs", "--epochs"),
    ("train extra", "extra"),
    ("train", "--dataset"),
    ("train --dataset nosuch", "'nosuch'"),
    ("train --dataset digit", "did you mean digits"),
    ("train --dataset mnist --data-root {place}/folder", "{place}/folder"),
    ("train --dataset digits --sigma -1", "sigma is -1"),
    ("train --dataset digits --sigma 0", "sigma is 0"),
    ("train --dataset digits --sigma nan", "sigma is nan"),
    ("train --dataset digits --epochs 0", "epochs is 0"),
    ("train --dataset digits --batch-size 0", "batch_size is 0"),
    ("train --dataset digits --limit 0", "limit is 0"),
    ("train --dataset digits --image-size 9", "image size 9"),
    ("train --dataset digits --seed -1", "seed is -1"),
    ("train --dataset digits --workers -2", "workers is -2"),
    ("train --dataset digits --objective maser", "'maser'"),
    ("train --dataset digits --preset nosuch", "'nosuch'"),
    ("train --preset macer-digit", "did you mean macer-digits"),
    ("train --dataset digits --set tradeoff=1", "did you mean trade_off"),
    ("train --dataset digits --set x", "'x'"),
    ("train --dataset digits --set =1", "'=1'"),
    ("train --dataset digits --set lr=[", "'lr=['"),
    ("train --dataset digits --set trade_off=-1", "-1"),
    ("train --dataset digits --set trade_off=much", "'much'"),
    ("train --dataset digits --set lr_drops=3", "lr_drops is 3"),
    ("train --dataset digits --set objective=3", "objective 3"),
    ("train --dataset digits --objective gaussian --set hinge=1", "'hinge'"),
    ("train --config {place}/nosuch.yaml", "{place}/nosuch.yaml"),
    ("train --config {place}/folder", "{place}/folder"),
    ("train --config {place}/broken.yaml", "{place}/broken.yaml"),
    ("train --config {place}/list.yaml", "{place}/list.yaml"),
    ("train --config {place}/unknown.yaml", "tradeoff"),
    ("train --config {place}/run/run.yaml --preset macer-digits", "--preset"),
    ("certify", "RUN|CHECKPOINT"),
    ("certify {place}/nosuch --dataset mnist", "{place}/nosuch"),
    ("certify {place}/folder", "{place}/folder"),
    ("certify {place}/unfinished", "{place}/unfinished"),
    ("certify {place}/cert", "{place}/cert"),
    ("certify {place}/cert/summary.json", "summary.json"),
    ("certify {place}/text.txt --dataset digits", "text.txt"),
    ("certify {place}/text.safetensors", "text.safetensors"),
    ("certify {place}/text.pth --dataset digits --model lenet --sigma 0.25", "text.pth"),
    ("certify {place}/other.safetensors", "--model"),
    ("certify {place}/other.safetensors --model lenet", "--dataset"),
    ("certify {place}/other.safetensors --model lenet --dataset digits", "--sigma"),
    ("certify {place}/other.safetensors --model lenet --dataset digits --sigma 1", "LeNet"),
    ("certify {place}/run --model resnet20", "does not fit"),
    ("certify {place}/run --model lenett", "'lenett'"),
    ("certify {place}/run --model no.such:thing", "'no.such:thing'"),
    ("certify {place}/run --dataset nosuch", "'nosuch'"),
    ("certify {place}/run --dataset mnist --data-root {place}/folder", "{place}/folder"),
    ("certify {place}/run --split validation", "'validation'"),
    ("certify {place}/run --n 5", "n is 5"),
    ("certify {place}/run --n0 0", "n0 is 0"),
    ("certify {place}/run --alpha 2", "alpha is 2"),
    ("certify {place}/run --alpha 0", "alpha is 0"),
    ("certify {place}/run --sigma -1", "sigma is -1"),
    ("certify {place}/run --bound clopper", "'clopper'"),
    ("certify {place}/run --sampling some", "'some'"),
    ("certify {place}/run --start 450", "450"),
    ("certify {place}/run --start -1", "-1"),
    ("certify {place}/run --skip 0", "skip is 0"),
    ("certify {place}/run --limit 0", "limit is 0"),
    ("certify {place}/run --block-size 0", "block_size is 0"),
    ("certify {place}/run --actors 0", "actors is 0"),
    ("certify {place}/run --precision fp8", "'fp8'"),
    ("certify {place}/run --seed -1", "seed is -1"),
    ("predict {place}/nosuch", "{place}/nosuch"),
    ("predict {place}/run --n 0", "n is 0"),
    ("predict {place}/run --n some", "--n"),
    ("predict {place}/run --alpha 1", "alpha is 1"),
    ("predict {place}/run --start 999", "999"),
    ("predict {place}/run --limit 0", "limit is 0"),
    ("predict {place}/run --precision fp8", "'fp8'"),
    ("predict {place}/run --model resnet20", "does not fit"),
    ("predict {place}/other.safetensors --dataset digits", "--model"),
    ("presets nosuch", "'nosuch'"),
    ("presets macer-digit", "did you mean macer-digits"),
    ("report", "PATH"),
    ("report {place}/nosuch", "{place}/nosuch"),
    ("report {place}/folder", "{place}/folder"),
    ("report {place}/run", "{place}/run"),
    ("report {place}/text.txt", "text.txt"),
    ("report {place}/text.tsv", "text.tsv"),
    ("report {place}/text.parquet", "text.parquet"),
    ("report {place}/cert/summary.json", "summary.json"),
    ("report {place}/cert --format word", "'word'"),
    ("report {place}/cert --plot {place}/curve.jpg", "curve.jpg"),
    ("report {place}/cert --radii 0", "0"),
    ("tune", "--dataset"),
    ("tune --dataset nosuch", "'nosuch'"),
    ("tune --dataset digits --search trade_off", "'trade_off'"),
    ("tune --dataset digits --search trade_off=3", "'3'"),
    ("tune --dataset digits --search trade_off=normal(0,1)", "'normal(0,1)'"),
    ("tune --dataset digits --search trade_off=uniform(3,1)", "uniform(3,1)"),
    ("tune --dataset digits --search trade_off=log(0,1)", "log(0,1)"),
    ("tune --dataset digits --search trade_off=log(1)", "log(1)"),
    ("tune --dataset digits --search tradeoff=log(1,2)", "did you mean trade_off"),
    ("tune --dataset digits --objective gaussian --search hinge=log(1,2)", "'hinge'"),
    ("tune --dataset digits --trials 0", "trials is 0"),
    ("tune --dataset digits --concurrent 0", "concurrent is 0"),
    ("tune --dataset digits --validation 0", "validation is 0"),
    ("tune --dataset digits --n 3", "n is 3"),
    ("tune --dataset digits --set tradeoff=1", "did you mean trade_off"),
    ("certify {place}/odd.safetensors --dataset digits --model lenet --sigma 1", "odd.safetensors"),
    (
        "certify {place}/list.safetensors --dataset digits --model lenet --sigma 1",
        "list.safetensors",
    ),
    ("train --dataset digits --set objective=[1]", "objective"),
    ("predict {place}/run --limit 1 --sigma -1", "sigma is -1"),
    ("predict {place}/run --limit 1 --sigma 0", "sigma is 0"),
    ("tune --dataset digits --trials 0 --search trade_off=uniform(nan,1)", "uniform(nan,1)"),
    ("tune --dataset digits --trials 0 --search trade_off=choice()", "choice()"),
]


@pytest.mark.parametrize(("line", "named"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line(line, named, rsray_command, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSRAY_DATA_ROOT", raising=False)
    result = rsray_command(*line.format(place=place).split())
    assert result.status == 2
    assert result.err.startswith("error: ") and result.err.endswith("\n")
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    assert named.format(place=place) in result.err
    assert result.out == "" and list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    """What a shell sees: the status, one line on stderr, nothing on stdout."""
    code = "from rsray_cli.main import run; run()"
    for arguments, named in (
        (["nosuch"], "nosuch"),
        (["certify", "nothing", "--n", "5"], "n is 5"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and named in line


def test_version(rsray_command):
    assert rsray_command("--version") == Result(0, f"rsray {rsray.__version__}\n", "")


@pytest.mark.parametrize(
    "command", ["train", "certify", "predict", "tune", "report", "presets", "doctor"]
)
def test_help(command, rsray_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    result = rsray_command(command, "--help")
    assert (result.status, result.err) == (0, "") and f"rsray {command}" in result.out
    options = {
        "train": "--dataset --data-root --preset --model --objective --sigma --epochs --batch-size "
        "--workers --gpus-per-worker --precision --limit --out --set --seed --address --config",
        "certify": "--dataset --data-root --split --sigma --n0 --alpha --bound --sampling --start "
        "--skip --limit --actors --gpus-per-actor --precision --out --seed --address",
        "predict": "--dataset --data-root --alpha --seed --out",
        "tune": "--dataset --objective --trials --concurrent --epochs --search --out --seed --address",
        "report": "--format --plot --html --export-cohen",
    }  # fmt: skip
    for option in options.get(command, "").split():  # users rely on them
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", result.out), option


@pytest.fixture
def same_evaluation(monkeypatch):
    """The choice of an evaluation measures speed, and a busy machine may choose another one."""

    def choose(model, image_shape, *, precision, device):
        return Evaluation(device.type, precision, "channels_last", 96)

    monkeypatch.setattr(predictions, "choose_evaluation", choose)


@pytest.mark.usefixtures("same_evaluation")
def test_predict_prints_the_table(rsray_command, place, tmp_path):
    arguments = ("predict", place / "run", "--n", 200, "--start", 2, "--skip", 3, "--limit", 12)
    result = rsray_command(*arguments, "--out", tmp_path / "p.parquet")
    assert result.status == 0
    head, *lines = result.out.splitlines()
    names = ["label_name", "prediction_name"]
    assert head.split("\t") == ["index", "label", "prediction", "p_value", *names]
    rows = [line.split("\t") for line in lines]
    assert [int(row[0]) for row in rows] == list(range(2, 38, 3))
    test = open_split("digits", "test")
    assert [int(row[1]) for row in rows] == test.labels[2:38:3].tolist()
    classes = [int(row[2]) for row in rows]
    right = sum(int(row[1]) == int(row[2]) for row in rows)
    assert right >= 6 and set(classes) <= set(range(-1, 10))
    assert all((float(row[3]) <= 0.001) == (int(row[2]) >= 0) for row in rows)
    assert [row[4] for row in rows] == [row[1] for row in rows], "digits are named as numbered"
    assert all(row[5] == row[2].replace("-1", "abstain") for row in rows)
    said, following = result.err.splitlines()
    assert following == f"next: rsray certify {place / 'run'}"
    assert said.startswith(f"12 images: {right} right, {classes.count(-1)} abstained")
    stored = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert stored["prediction"] == classes and stored["index"] == list(range(2, 38, 3))
    assert rsray_command(*arguments).out == result.out, "the seed decides"
    assert rsray_command(*arguments, "--seed", 1).out != result.out


@pytest.mark.usefixtures("same_evaluation")
def test_predict_names_an_image_whose_logits_are_nan(rsray_command, place):
    result = rsray_command("predict", place / "nan.safetensors", "--start", 3, "--n", 10)
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "error: no image can be predicted; image 3: the network returned NaN for image 3\n"
    )


@pytest.mark.usefixtures("same_evaluation")
def test_predict_names_an_image_that_cannot_be_read_and_goes_on(rsray_command, place, monkeypatch):
    kind = type(open_split("digits", "test"))
    read = kind.images

    def images(self, indices):
        if 5 in indices:
            raise OSError("stale\nfile handle")
        return read(self, indices)

    monkeypatch.setattr(kind, "images", images)
    result = rsray_command("predict", place / "run", "--start", 3, "--limit", 4, "--n", 10)
    assert result.status == 1
    assert [line.split("\t")[0] for line in result.out.splitlines()[1:]] == ["3", "4", "6"]
    assert (
        "failed: image 5: stale file handle\n1 images have no prediction; they count 0"
        in result.err
    )
    assert "4 images: " in result.err and " abstained, 1 failed (n 10" in result.err


def test_predict_agrees_with_the_library(rsray_command, place):
    """Where the command is certain, other draws of the same smoothed classifier say the same."""
    result = rsray_command(
        "predict", place / "run", "--n", 1000, "--limit", 8, "--precision", "fp32"
    )
    test = open_split("digits", "test")
    smoothed = SmoothedClassifier(open_source(str(place / "run")).build(test), 0.25, 10)
    generator, compared = torch.Generator().manual_seed(5), 0
    for line in result.out.splitlines()[1:]:
        index, _, prediction, *_ = line.split("\t")
        image = torch.from_numpy(test.images([int(index)])[0]).float() / 255
        other = smoothed.predict(image, n=1000, generator=generator).prediction
        if int(prediction) >= 0 and other >= 0:
            compared += 1
            assert other == int(prediction)
    assert compared >= 4


@pytest.mark.usefixtures("same_evaluation")
def test_predict_abstains_with_one_draw(rsray_command, place):
    result = rsray_command("predict", place / "run", "--n", 1, "--limit", 3)
    assert result.status == 0
    assert [line.split("\t")[2] for line in result.out.splitlines()[1:]] == ["-1"] * 3


@pytest.mark.usefixtures("same_evaluation")
def test_predict_of_the_weights_file_alone(rsray_command, place):
    """model.safetensors carries model, data set and sigma in its metadata."""
    folder, file = (
        rsray_command("predict", place / name, "--n", 100, "--limit", 4)
        for name in ("run", "run/model.safetensors")
    )
    assert file.status == 0 and file.out == folder.out


def test_a_short_certification_needs_no_ray(rsray_command, place, tmp_path, monkeypatch):
    """It is counted on this machine, resumed, and drawn again by an audit."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out = tmp_path / "cert"
    arguments = ("certify", place / "run", "--n", 200, "--limit", 5, "--out", out)
    first = rsray_command(*arguments)
    assert first.status == 0 and "counts on this machine, without Ray: about" in first.err
    assert pq.read_table(out / "certificates.parquet").num_rows == 5
    again = rsray_command(*arguments)
    assert (again.status, again.out) == (0, first.out) and "without Ray" not in again.err
    audited = rsray_command("audit", out, place / "run", "--fraction", 1)
    assert audited.status == 0 and "passed" in audited.out + audited.err
    assert json.loads((out / "audit.json").read_text())["passed"]
    refused = rsray_command(*arguments[:-1], tmp_path / "other", "--actors", 100_000)
    assert refused.status == 2 and "actors is 100000" in refused.err
