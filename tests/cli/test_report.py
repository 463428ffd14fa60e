import csv
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from shared_files import SHARED
from typer.testing import CliRunner

from rsray.errors import UserError
from rsray.results.certificates import read_certificates, write_certificates
from rsray.results.reading.cohen import read_log
from rsray_cli.report import report


@pytest.fixture
def rsray():
    app = typer.Typer()
    app.command()(report)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def cert(tmp_path):
    size = 20
    label = np.arange(size) % 10
    prediction = np.where(np.arange(size) % 4 == 3, -1, label)
    radius = np.where(prediction < 0, 0.0, np.linspace(0.1, 0.9, size))
    columns = {
        "index": np.arange(size) * 100, "label": label, "prediction": prediction, "radius": radius,
        "correct": prediction == label, "p_a_lower": np.full(size, 0.9),
        "p_b_upper": np.full(size, 0.1), "count_a": np.full(size, 990), "n0": np.full(size, 100),
        "n": np.full(size, 1000), "skipped": np.zeros(size, dtype=bool),
    }  # fmt: skip
    metadata = {"sigma": 0.5, "alpha": 0.001, "bound": "clopper-pearson", "n": 1000}
    write_certificates(tmp_path / "cert" / "certificates.parquet", columns, metadata)
    return tmp_path / "cert"


def test_one_result_in_every_format(rsray, cert):
    for name, mark in (("table", "ACR"), ("markdown", "| --- |"), ("latex", r"\toprule")):
        result = rsray(cert, "--format", name)
        assert result.exit_code == 0 and mark in result.stdout
        assert result.stderr == f"next: rsray report {cert} --html page.html\n"
    result = rsray(cert, "--format", "csv", "--radii", "0.5")
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert row["0.00"] == "0.75" and "0.25" not in row and row["n"] == "1000"


def test_files_and_warnings(rsray, cert, tmp_path):
    log, plot, page = (tmp_path / name for name in ("toy-0.50.tsv", "c.svg", "c.html"))
    assert rsray(cert, "--export-cohen", log, "--plot", plot).exit_code == 0
    assert read_log(log).radius.max() == 0.857 and plot.stat().st_size > 1000
    result = rsray(cert, log, "--html", page)
    assert result.exit_code == 0
    *lines, written, following = result.stderr.splitlines()
    assert lines and all(line.startswith("warning: ") for line in lines)
    assert written.split() == ["written", str(page)] and following.startswith("next: rsray show")
    assert "unknown, so not compared" in page.read_text()
    assert "warning" not in result.stdout


def test_common_images(rsray, cert, tmp_path):
    log = tmp_path / "short.tsv"
    log.write_text("100\t1\t1\t0.5\t1\t2.0\n200\t2\t2\t0.5\t1\t2.0\n250\t5\t5\t0.5\t1\t2.0\n")
    assert "the images differ" in rsray(cert, log).stderr
    result = rsray(cert, log, "--common", "--format", "csv")
    assert "the images differ" not in result.stderr
    assert [row["images"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["2", "2"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "word"], ["--plot", "c.jpg"], ["--radii", "0"], ["nosuch"],
        ["{cert}", "--export-cohen", "x.tsv"],
    ],
)  # fmt: skip
def test_mistakes(rsray, cert, arguments):
    result = rsray(cert, *(argument.format(cert=cert) for argument in arguments))
    assert isinstance(result.exception, UserError) and "\n" not in str(result.exception)
    assert result.stdout == ""


def test_a_report_is_written_over_nothing_else(rsray, cert):
    (cert / "summary.json").write_text("{}")
    before = {file.name: file.read_bytes() for file in cert.iterdir()}
    for option, name, said in (
        ("--html", "summary.json", "must end in .html, .htm"),
        ("--export-cohen", "certificates.parquet", "holds something else"),
        ("--export-cohen", "summary", "summary.json holds something else"),
    ):
        assert said in str(rsray(cert, option, cert / name).exception)
    assert {file.name: file.read_bytes() for file in cert.iterdir()} == before
    for _ in range(2):
        assert rsray(cert, "--export-cohen", cert / "log", "--html", cert / "p.HTM").exit_code == 0


def test_failures_classes_and_labels(rsray, cert, tmp_path):
    table = pq.read_table(cert / "certificates.parquet")
    metadata = json.loads(table.schema.metadata[b"rsray"])
    metadata |= {
        "failed": {"50": "OSError: damaged"}, "failed_labels": {"50": 3},
        "classes": ["plane", "car", *"cdefghij"],
    }  # fmt: skip
    pq.write_table(
        table.replace_schema_metadata({"rsray": json.dumps(metadata)}),
        cert / "certificates.parquet",
    )
    page, log = tmp_path / "p.html", tmp_path / "log"
    asked = ["--label", "mine", "--html", page, "--export-cohen", log, "--format", "csv"]
    result = rsray(cert, *asked)
    said = "mine: 1 of 21 images failed and count 0 (image 50: OSError: damaged)"
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: {said}"] and said in page.read_text()
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert (row["result"], row["images"], row["failed"]) == ("mine", "21", "1")
    assert float(row["0.00"]) == 15 / 21 and "mine: plane" in page.read_text()
    assert read_log(log).accuracy_at([0.0]) == 15 / 21
    rows = list(csv.DictReader(io.StringIO(rsray(cert, "--by-class", "--format", "csv").stdout)))
    assert len(rows) == 10 and rows[1]["result"] == "cert: car" and rows[1]["images"] == "2"
    assert (rows[3]["images"], rows[3]["failed"]) == ("3", "1")


def test_a_log_without_a_suffix_and_one_of_predictions(rsray, tmp_path):
    log = tmp_path / "sigma_0.25"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t2.0\n")
    (row,) = csv.DictReader(io.StringIO(rsray(log, "--format", "csv").stdout))
    assert (row["sigma"], row["ACR"]) == ("0.25", "0.5")
    log.write_text("idx\tlabel\tpredict\tbasePredict\tcorrect\ttime\n0\t1\t1\t1\t1\t2.0\n")
    result = rsray(log)
    assert isinstance(result.exception, UserError) and result.stdout == ""
    assert "log of predictions" in str(result.exception)


def test_a_paired_report_of_a_cert_and_logs_in_a_folder(rsray, cert, tmp_path):
    (tmp_path / "logs").mkdir()
    for name in ("one", "two"):
        assert rsray(cert, "--export-cohen", tmp_path / "logs" / f"{name}.tsv").exit_code == 0
    said = ["--log-sigma", "0.5", "--log-n", "1000", "--log-alpha", "0.001"]
    page = tmp_path / "p.html"
    result = rsray(cert, tmp_path / "logs", *said, "--paired", "--html", page, "--title", "Three")
    assert result.exit_code == 0 and "Differences on the same images" in result.stdout
    assert "sigma" not in result.stderr, "it is known of all three"
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings
    for line in warnings:
        assert "".join(line.removeprefix("warning: ").split()) in "".join(result.stdout.split())
    text = page.read_text()
    assert "McNemar" in text and "<h1>Three</h1>" in text
    found = rsray(cert, tmp_path / "logs", *said, "--paired", "--format", "csv").stdout
    table, pairs = (list(csv.DictReader(io.StringIO(part))) for part in found.split("\n\n"))
    assert [row["result"] for row in table] == ["cert", "one", "two"]
    assert [row["against"] for row in pairs] == ["cert", "cert"] and "notes" in table[0]
    # Rounded down by less than a thousandth where it is certified.
    assert -0.001 < float(pairs[0]["difference"]) <= 0


def test_published_figures_and_a_leaderboard(rsray, cert, tmp_path):
    plot = tmp_path / "p.png"
    result = rsray(cert, "--published", "cifar10", "--plot", plot, "--columns", "sigma,ACR,radii")
    assert "macer-cifar10-0.50" in result.stdout and "0.726" in result.stdout
    assert "macer-cifar10-0.25" not in result.stdout and plot.exists()
    assert "MACER table 2" in rsray("--published", "imagenet").stdout
    result = rsray("--leaderboard", tmp_path)
    assert result.exit_code == 0 and (tmp_path / "leaderboard.html").stat().st_size > 1000
    assert rsray("--leaderboard", tmp_path, "--html", tmp_path / "x.html").exit_code == 0
    assert (tmp_path / "x.html").exists()


def test_what_a_leaderboard_prints_says_how_its_results_are_unlike(rsray, cert, tmp_path):
    """Its page compares within a data set and a sigma; the printed table holds them all."""
    found = read_certificates(cert / "certificates.parquet")
    other = {**found.metadata, "sigma": 1.0, "bound": "hoeffding"}
    write_certificates(tmp_path / "soft" / "certificates.parquet", found.columns(), other)
    printed = rsray("--leaderboard", tmp_path, "--format", "markdown").stdout
    assert "sigma differs: 0.5 (cert), 1.0 (soft)" in printed and "bound differs" in printed
    assert "sigma differs" not in (tmp_path / "leaderboard.html").read_text()


def test_training_curves_of_runs(rsray, tmp_path):
    (tmp_path / "run").mkdir()
    lines = [{"epoch": e, "loss": 1.5 - e, "noisy_accuracy": 0.5, "seconds": 2} for e in (0, 1)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "run" / "metrics.jsonl").write_text(text)
    plot = tmp_path / "t.svg"
    result = rsray(tmp_path / "run", "--plot-of", "training", "--plot", plot)
    assert result.exit_code == 0 and "0.5" in result.stdout and plot.exists()
    refused = rsray(tmp_path, "--plot-of", "training").exception
    assert isinstance(refused, UserError) and "draws RUNs" in str(refused)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{cert}", "--size", "6"], "size"), (["{cert}", "--size", "0x3"], "inches are 1 to 50"),
        (["{cert}", "--radii", "0.5,x"], "radii"), (["{cert}", "--columns", "ACR, ACR"], "twice"),
        (["{cert}", "--size", "1x1", "--title", "T", "--plot", "{cert}/c.png"], "larger --size"), (["{cert}", "--columns", "speed"], "column"),
        (["{cert}", "--sort", "speed"], "sort"), (["{cert}", "--paired"], "at least two"),
        (["{cert}", "--log-n", "5"], "no log was given"), ([], "give the results to show"),
        (["{cert}", "--published", "moon"], "published"), (["{cert}", "--plot-of", "pie"], "plot_of"),
    ],
)  # fmt: skip
def test_mistakes_of_the_newer_options(rsray, cert, arguments, said):
    refused = rsray(*(argument.format(cert=cert) for argument in arguments)).exception
    assert isinstance(refused, UserError) and said in str(refused), refused
    assert "\n" not in str(refused)


def test_help_names_every_option(rsray):
    text = rsray("--help").stdout
    for option in ("--format", "--plot", "--html", "--export-cohen", "--common", "--radii"):
        assert option in text


def test_published_logs_side_by_side(rsray):
    logs = [SHARED / "reference" / "mnist" / f"{n}-0.50.tsv" for n in ("gaussian", "macer")]
    if not logs[0].exists():
        pytest.skip(f"no published logs in {SHARED}")
    result = rsray(*logs)
    assert "1.559" in result.stdout and "1.590" in result.stdout


def test_importing_the_command_imports_nothing_heavy():
    script = "import json, sys, rsray_cli.report; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    heavy = {"numpy", "pyarrow", "matplotlib", "torch", "ray"}
    assert not heavy & set(json.loads(done.stdout))


def test_an_exported_log_says_beside_it_what_it_cannot_hold(rsray, cert, tmp_path):
    log = tmp_path / "mine.tsv"
    result = rsray(cert, "--export-cohen", log)
    told = json.loads((tmp_path / "mine.tsv.json").read_text())
    assert (told["sigma"], told["n"], told["alpha"]) == (0.5, 1000, 0.001)
    assert f"written      {log}.json" in result.stderr
    assert log.read_text().startswith("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
    (row,) = csv.DictReader(io.StringIO(rsray(log, "--format", "csv").stdout))
    assert (row["sigma"], row["n"], row["alpha"]) == ("0.5", "1000", "0.001")


def test_published_figures_stand_on_the_page_too(rsray, cert, tmp_path):
    page = tmp_path / "p.html"
    for paths in ([cert], []):
        assert rsray(*paths, "--published", "cifar10", "--html", page).exit_code == 0
        text = page.read_text()
        assert "<td>macer-cifar10-0.50 (MACER table 1)</td>" in text and "data-curves" in text
        assert ("verified" in text) == bool(paths)


def test_published_figures_of_other_data_are_told(rsray, tmp_path):
    log = tmp_path / "cifar10" / "sigma_0.25"
    log.parent.mkdir()
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t2.0\n")
    said = "warning: dataset differs: cifar10 (sigma_0.25), mnist (published)"
    assert said in rsray(log, "--published", "mnist").stderr
    assert said not in rsray(log, "--published", "cifar10").stderr


def test_nothing_to_draw_is_said(rsray, tmp_path):
    for plot_of in ("p-a", "draws", "classes"):
        asked = ("--published", "cifar10", "--plot-of", plot_of, "--plot", tmp_path / "x.png")
        refused = rsray(*asked).exception
        assert isinstance(refused, UserError) and "nothing to draw" in str(refused)


def test_trainings_that_differ_are_told_in_the_table_and_under_the_plot(rsray, tmp_path):
    for name, sigma in (("a", 0.25), ("b", 0.5)):
        (tmp_path / name).mkdir()
        line = {"epoch": 0, "loss": 1.5, "noisy_accuracy": 0.5, "seconds": 2}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (tmp_path / name / "run.yaml").write_text(f"dataset: digits\nsigma: {sigma}\n")
    asked = [tmp_path / "a", tmp_path / "b", "--plot-of", "training", "--format", "markdown"]
    labels = ["--label", "one", "--label", "two"]
    result = rsray(*asked, *labels, "--plot", tmp_path / "t.svg")
    said = "sigma differs: 0.25 (one), 0.5 (two)"
    assert said in result.stdout and f"warning: {said}" in result.stderr
    for wrong in (["--label", "one"], ["--label", "one"] * 2, ["--label", "one", *labels]):
        assert "labels were given for 2 runs" in str(rsray(*asked, *wrong).exception)
    for other in (["--html", "x.html"], ["--paired"], ["--sort", "loss"]):
        refused = rsray(*asked, *other).exception
        assert isinstance(refused, UserError) and f"{other[0]} is of certificates" in str(refused)


def test_what_is_of_a_plot_needs_one(rsray, cert):
    for option in (["--size", "6x4"], ["--plot-of", "p-a"]):
        assert "give --plot FILE" in str(rsray(cert, *option).exception)


def test_a_report_shows_itself_in_a_notebook(cert):
    import rsray

    found = rsray.report([cert, cert], paired=True)
    shown = found._repr_html_()
    assert shown.count("<table") == 2 and "McNemar" in shown
