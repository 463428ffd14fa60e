"""`rsray recertify` and the new options of `rsray certify`, as typed."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from rsray.certification.counts.gathering import gather
from rsray.certification.counts.store import Selected
from rsray.certification.counts.tables import counts_table
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim, finish
from rsray.config import CertifyConfig
from rsray.results.compare import load
from rsray.storage import Place
from rsray_cli.main import run


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.setattr(sys, "argv", ["rsray", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run()
        return stopped.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def cert(tmp_path):
    """A CERT of 20 images, 3 classes, 2,000 draws in two blocks."""
    values = {
        "source": "RUN", "model_digest": "d", "dataset": "digits", "model": "lenet", "num_classes": 3, "image_shape": (1, 8, 8),
        "sigma": 0.5, "n": 2000, "limit": 20,
    }  # fmt: skip
    claimed = claim(
        Place.of(tmp_path / "cert"),
        CertifyConfig.make(values),
        Evaluation("cpu", "fp32", "contiguous", 8),
    )
    rng, tables = np.random.default_rng(0), []
    for index in range(20):
        p = [0.8, 0.1, 0.1] if index % 2 else [0.97, 0.03, 0.0]
        pilot, counts = rng.multinomial(100, p, 1), rng.multinomial(1000, p, 2)
        tables += [
            counts_table(index, 0, "selection", [(0, 100)], pilot),
            counts_table(index, 0, "estimation", [(0, 1000), (1, 1000)], counts),
        ]
    claimed.store.append(pa.concat_tables(tables))
    selected = Selected(np.arange(20), np.zeros(20, dtype=np.int64))
    gathered = gather(claimed.store, selected, claimed.plan)
    finish(claimed, gathered, seconds=4.0, failed={})
    return tmp_path / "cert"


def test_recertify_writes_a_cert_and_prints_its_table(command, cert):
    status, out, err = command("recertify", cert, "--alpha", "0.01", "--bound", "tcertify")
    assert status == 0 and "cert-alpha0.01-tcertify" in err and "ACR" in out
    made = load(cert.parent / "cert-alpha0.01-tcertify")
    before = load(cert)
    assert made.metadata["alpha"] == 0.01 and made.metadata["bound"] == "tcertify"
    assert np.all(made.radius >= before.radius) and made.radius[1] > 1.1 * before.radius[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to change: give --alpha, --bound or --n"),
        (["--n", "5000"], "n is 5000, but only 2000 draws an image are stored"),
        (["--bound", "bernstein"], "needs sums of soft probabilities"),
        (["--bound", "tcertfy"], "did you mean tcertify?"),
    ],
)
def test_mistakes_are_one_line(command, cert, arguments, words):
    status, out, err = command("recertify", cert, *arguments)
    assert status == 2 and err.startswith("error: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--bound", "exact"],
            "choose one of clopper-pearson, randomized-clopper-pearson, tcertify",
        ),
        (["--sampling", "lazy"], "choose one of fixed, skip, adaptive"),
        (["--at-radius", "big"], "at-radius 'big' is no list of radii"),
        (["--at-radius", "-1"], "radii are finite and at least 0"),
        (["--bound", "hoeffding", "--n", "10"], "by the hoeffding bound"),
    ],
)
def test_certify_names_what_is_allowed(command, tmp_path, arguments, words):
    status, _, err = command("certify", tmp_path / "none", *arguments)
    assert status == 2 and words in err and err.count("\n") == 1
