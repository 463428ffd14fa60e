"""rsray from Python: the same names as the options, and what the functions return."""

import inspect

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import rsray
from rsray import api
from rsray.config import (
    AuditConfig,
    CertifyConfig,
    ExportConfig,
    PlanConfig,
    PredictConfig,
    RecertifyConfig,
    ReportConfig,
    Running,
    Searching,
    TrainConfig,
    TuneConfig,
)
from rsray.progress import Watch
from rsray_cli.options import shown_fields
from rsray_cli.predict import IMAGES

# What the command line has beside the parameters of a function, or calls otherwise.
CALLED = {"normalisation": "normalise"}
ON_THE_COMMAND_LINE = {"set", "cluster", "down", "format", "of"}
OPTIONS = {
    "train": [(TrainConfig, ()), (Running, ())],
    "certify": [(CertifyConfig, ()), (Running, ("set",))],
    "predict": [(CertifyConfig, IMAGES), (PredictConfig, ())],
    "plan": [
        (CertifyConfig, ("actors", "block_size", "reuse", "reuse_model")),
        (PlanConfig, ()),
    ],
    "recertify": [(RecertifyConfig, ())],
    "audit": [(AuditConfig, ())],
    "export": [(ExportConfig, ())],
    "report": [(ReportConfig, ())],
    "tune": [(TrainConfig, ("workers",)), (TuneConfig, ("limit",)), (Searching, ()), (Running, ())],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_a_command_is_a_parameter_of_its_function(name):
    parameters = set(inspect.signature(getattr(api, name)).parameters)
    for settings, some in OPTIONS[name]:
        names = some if settings is CertifyConfig and name == "predict" else shown_fields(settings)
        wanted = {CALLED.get(each, each) for each in names} - ON_THE_COMMAND_LINE
        if name in ("plan", "tune"):
            wanted -= set(some)
        assert wanted <= parameters, settings


def test_no_function_repeats_a_default():
    for name in OPTIONS:
        for parameter in inspect.signature(getattr(api, name)).parameters.values():
            assert parameter.default in (inspect.Parameter.empty, None, False, True, ()), parameter


def test_a_certification_again_from_its_certify_yaml_takes_the_same_images(tmp_path):
    record = tmp_path / "certify.yaml"
    record.write_text("{start: 0, skip: 1, limit: 20, is_spread: true, n: 500}")
    given = api._certification_settings({"seed": 3}, record)
    assert given == {"limit": 20, "n": 500, "seed": 3}
    record.write_text("{start: 4, skip: 2, limit: 20, is_spread: false}")
    assert api._certification_settings({}, record) == {"start": 4, "skip": 2, "limit": 20}


def test_what_a_file_says_of_a_certification_is_taken_or_refused(tmp_path):
    file = tmp_path / "certify.yaml"
    for name in ("normalise", "normalisation"):
        file.write_text(f"{{n: 500, {name}: dataset}}")
        wanted = {"n": 500, "normalisation": "dataset"}
        assert api._certification_settings({}, file) == wanted
        given = api._certification_settings({"normalise": "none"}, file)
        assert given == {"n": 500, "normalisation": "none"}
    for text, names in (("alfa: 0.01", "alfa"), ("{n: 5, lr: 1, data-root: x}", "lr, data-root")):
        file.write_text(text)
        with pytest.raises(rsray.UserError, match=f"certify.yaml: {names}: no known setting"):
            api._certification_settings({}, file)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    told = []
    made = rsray.train(
        dataset="digits", objective="gaussian", epochs=2, lr=0.1, precision="fp32",
        out=tmp_path_factory.mktemp("api") / "run", progress=Watch(say=told.append),
    )  # fmt: skip
    assert len(told) == 2 and "gaussian on digits" in told[0] and "trained in" in told[1]
    return made


def test_a_run_opens_its_settings_figures_and_network(run):
    assert (run.config.objective, run.config.epochs, run.config.lr) == ("gaussian", 2, 0.1)
    assert (
        run.metrics["epoch"].to_pylist() == [0, 1] and "noisy_accuracy" in run.metrics.column_names
    )
    model = run.model()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10) and not model.training


def test_a_finished_run_is_returned_as_it_is(run):
    told = []
    again = rsray.train(
        dataset="digits", objective="gaussian", epochs=2, lr=0.1, precision="fp32", out=run.path,
        progress=Watch(say=told.append),
    )  # fmt: skip
    assert again.path == run.path and told[1] == "was trained already: nothing to do"
    with pytest.raises(rsray.UserError, match="sigma is 0.5 now but was 0.25"):
        rsray.train(
            dataset="digits", objective="gaussian", epochs=2, lr=0.1, sigma=0.5, precision="fp32",
            out=run.path, progress=False,
        )  # fmt: skip


def test_predictions_and_a_plan(run, tmp_path):
    made = rsray.predict(run, n=100, limit=5, precision="fp32", out=tmp_path / "p.parquet")
    assert made.table.num_rows == 5 and made.failed == {} and (tmp_path / "p.parquet").exists()
    weights, other = run.place / "model.safetensors", tmp_path / "certificates.parquet"
    pq.write_table(pa.table({"index": [1]}), other)
    for out, said in ((weights, "must end in .parquet"), (other, "holds no predictions")):
        before = out.read_bytes()
        with pytest.raises(rsray.UserError, match=said):
            rsray.predict(run, n=100, limit=5, out=out)
        assert out.read_bytes() == before
    plan = rsray.plan(run, n=1000, limit=9, seconds=0.1, actors=4, price=2.0, compile="off")
    assert plan.forecast.draws == 9 * 1100 and plan.dollars > 0 and plan.hours > 0


def test_a_certification_goes_by_the_record_of_another(run, tmp_path):
    settings = {"n": 100, "n0": 10, "limit": 2, "precision": "fp32", "progress": False}
    cert = rsray.certify(run, **settings, out=tmp_path / "cert")
    other = rsray.recertify(cert, alpha=0.01, out=tmp_path / "other")
    for made, alpha in ((cert, 0.001), (other, 0.01)):
        given = api._certification_settings({}, f"{made.path}/certify.yaml")
        assert (given["n"], given["limit"], given["alpha"]) == (100, 2, alpha)
        assert "normalisation" not in given and "start" not in given


@pytest.mark.parametrize(
    "call",
    [
        lambda: rsray.train(dataset="digits", out=3),
        lambda: rsray.train(config=3),
        lambda: rsray.certify(3),
        lambda: rsray.report(3),
        lambda: rsray.report([3]),
        lambda: rsray.recertify(3, alpha=0.1),
        lambda: rsray.verify(3),
        lambda: rsray.show(3, 1),
        lambda: rsray.audit(3, 4),
        lambda: rsray.export(3),
        lambda: rsray.predict(3),
        lambda: rsray.plan(3),
        lambda: rsray.tune(dataset="digits", search=3),
    ],
)
def test_what_is_no_path_is_a_user_error_that_names_it(call):
    with pytest.raises(rsray.UserError, match=r"\b3\b"):
        call()


def test_mistakes_are_user_errors(run):
    for wrong in (
        lambda: rsray.train(dataset="digits", epochs=0, progress=False),
        lambda: rsray.train(dataset="digits", nosuch=1, progress=False),
        lambda: rsray.predict(run, n=0),
        lambda: rsray.plan(run, actors=0),
        lambda: rsray.recertify("nothing"),
        lambda: rsray.report([]),
        lambda: rsray.tune(dataset="digits", search={"hinge": "log(1)"}, progress=False),
    ):
        with pytest.raises(rsray.UserError) as refused:
            wrong()
        assert "\n" not in str(refused.value)


TEN_LINES = """
import rsray

run = rsray.train(dataset="digits", objective="gaussian", epochs=6, lr=0.1, out="runs/digits")
cert = rsray.certify(run, n=1_000, limit=40, out="runs/digits-cert")
print(cert.acr, cert.summary["certified_accuracy"]["0.25"])
radii, accuracy = cert.curve()
tighter = rsray.recertify(cert, alpha=0.01)
print(rsray.report([cert, tighter], plot="curve.png").text("markdown"))
print(rsray.predict(run, n=100, limit=5).table["prediction"])
"""


@pytest.mark.slow
def test_a_whole_job_in_ten_lines(tmp_path, monkeypatch):
    """Train, certify, certify again from the counts, compare and plot."""
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(TEN_LINES, names)
    cert, tighter = names["cert"], names["tighter"]
    assert cert.table.num_rows == 40 and 0 < cert.acr < tighter.acr
    accuracy = names["accuracy"]
    assert (
        np.all(np.diff(accuracy) <= 0) and accuracy[0] == cert.summary["certified_accuracy"]["0.00"]
    )
    assert (tmp_path / "curve.png").exists()
