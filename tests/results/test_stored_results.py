"""The measured tables of trainings are what `rsray report` makes of the certificates kept here."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import store_result
from bench.store_result import KEPT, PAGE, REPORT, RESULTS, store, with_reports

from rsray import api
from rsray.errors import UserError
from rsray.results.certificates import write_certificates
from rsray.results.compare import load

STORED = sorted(RESULTS.glob("*/*.csv"))
WORDS = {"train": "rsray train -x", "certify": "rsray certify -y", "commit": "abc"}


@pytest.fixture
def cert(tmp_path, make):
    result = make(n0=100)
    write_certificates(tmp_path / "certificates.parquet", result.columns(), result.metadata)
    (tmp_path / "certify.yaml").write_text("evaluation: {device_name: a chip}\n")
    return tmp_path


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_a_kept_result_has_its_acr_and_says_how_it_was_made(file):
    told, result = json.loads(Path(f"{file}.json").read_text()), load(file)
    assert all(told[name] not in (None, "") for name in KEPT)
    assert 0 <= told["acr"] - result.acr < 1e-9 and result.parameter("sigma") == told["sigma"]


def test_the_page_holds_what_report_prints_of_them():
    text = PAGE.read_text()
    assert with_reports(text) == text, "python tests/bench/store_result.py writes it anew"
    tables = [dataset for _, dataset, _ in REPORT.findall(text)]
    assert sorted(tables) == sorted(folder.name for folder in RESULTS.iterdir())


def test_a_certification_is_kept_whole(cert, tmp_path):
    results = tmp_path / "results"
    file = store(cert, "mine", **WORDS, results=results)
    found, was = load(file), load(cert / "certificates.parquet")
    assert found.index.tolist() == was.index.tolist()
    assert (found.radius <= was.radius).all() and (was.radius - found.radius).max() <= 1e-9
    assert 0 <= was.acr - found.acr < 1e-9
    told = json.loads((results / "toy/mine.csv.json").read_text())
    assert (told["machine"], told["commit"], told["n"]) == ("a chip", "abc", 1000)
    begin, end = "<!-- rsray report tests/bench/results/toy -->\n", "<!-- end of the report -->\n"
    page = with_reports(f"before\n{begin}{end}after\n", results)
    assert page == with_reports(page, results) and page.endswith(f"{end}after\n")
    columns = (
        "sigma",
        "radii",
        "ACR",
        "error",
        "images",
        "n",
        "alpha",
        "bound",
        "noise",
        "dataset",
    )
    from_csv = api.report([file], columns=columns).text()
    assert from_csv == api.report([cert], columns=columns, label=["mine"]).text()
    assert "\n| mine |" in page and "`rsray train -x`; `rsray certify -y`" in page


def test_the_certification_of_a_search_is_kept(cert, tmp_path):
    tune = tmp_path / "tune"
    shutil.copytree(cert, tune / "best/certificates")
    results = tmp_path / "results"
    store(tune, "mine", **WORDS, results=results)
    assert json.loads((results / "toy/mine.csv.json").read_text())["machine"] == "a chip"


@pytest.mark.parametrize("text", [None, "evaluation: {device: cpu}", "evaluation: 1", "n: 5"])
def test_what_does_not_say_how_it_was_made_leaves_nothing_behind(cert, tmp_path, text):
    (cert / "certify.yaml").unlink() if text is None else (cert / "certify.yaml").write_text(text)
    results = tmp_path / "results"
    with pytest.raises(UserError, match="has no certify.yaml|does not say its evaluation's"):
        store(cert, "mine", **WORDS, results=results)
    assert not results.exists()
    with pytest.raises(UserError, match="does not exist"):
        store(tmp_path / "nowhere", "mine", **WORDS, results=results)


def test_certificates_that_are_not_of_their_counts_are_not_kept(cert, monkeypatch, capsys):
    monkeypatch.setattr(store_result, "store", lambda *args, **said: pytest.fail("it was kept"))
    words = [str(cert), "mine", "--train", "x", "--certify", "y", "--commit", "z"]
    with pytest.raises(SystemExit):
        store_result.main(words)  # there are no counts
    assert "has no counts" in capsys.readouterr().err
    equal = SimpleNamespace(is_equal=False)
    monkeypatch.setattr(store_result.api, "verify", lambda cert: equal)
    with pytest.raises(SystemExit):
        store_result.main(words)
    assert "is_equal=False" in capsys.readouterr().err
