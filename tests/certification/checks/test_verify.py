"""Tampering of every kind is found and named; what a run wrote is found equal."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import rsray
from rsray.certification.checks.verify import verify
from rsray.certification.folder import finish
from rsray.certification.recertify import recertify
from rsray.config import CertifyConfig
from rsray.errors import UserError
from rsray.results.certificates import read_certificates
from rsray.results.reading.cohen import write_log
from rsray.storage import Place
from rsray.storage.schemas import parquet_bytes

MODES = {
    "fixed": {},
    "skip": {"sampling": "skip"},
    "adaptive": {"sampling": "adaptive", "tolerance": 0.12, "n0": 40},
    "at-radius": {"at_radius": (0.05, 0.2), "n": 400},
    "tcertify": {"bound": "tcertify"},
    "hoeffding": {"bound": "hoeffding"},
    "bernstein": {"bound": "bernstein", "n": 200},
}


def finished(run, failed=()):
    """Count and certify; images in `failed` lack all but their selection draws."""
    items = run.items(run.claimed.plan.num_blocks)
    run.count([item for item in items if item.index not in failed])
    finish(run.claimed, run.gathered(), seconds=2.0, failed=dict.fromkeys(failed, "damaged"))
    return run.where


def texts(cert):
    return [str(difference) for difference in verify(Place.of(cert)).differences]


@pytest.mark.parametrize("mode", MODES)
def test_what_a_run_wrote_is_equal(small_run, mode):
    found = verify(finished(small_run(**MODES[mode])))
    assert found.is_equal, found.differences
    assert found.num_certificates == 12 and found.num_blocks > 12
    by = "statsmodels" if mode in ("fixed", "skip", "adaptive", "tcertify") else "rsray's own code"
    assert str(found).endswith(f"by {by}") and ": equal; 12 certificates" in str(found)


def test_images_that_failed_are_allowed_to_lack_draws(small_run):
    run = small_run()
    assert texts(finished(run, failed=(12, 40))) == []
    summary = json.loads((run.where.local_path / "summary.json").read_text())
    assert list(summary["failed"]) == ["12", "40"]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {"alpha": 0.2}),
        ({"n": 160}, {"n": 80, "bound": "tcertify"}),
        (MODES["adaptive"], {"alpha": 0.2}),
        ({"sampling": "skip", "bound": "hoeffding"}, {"bound": "clopper-pearson"}),
        (MODES["at-radius"], {"n": 80}),
    ],
)
def test_certificates_made_again_are_equal_and_may_be_made_again(small_run, settings, changes):
    run = small_run(**settings)
    again, third = Place.of(f"{finished(run)}-2"), Place.of(f"{run.where}-3")
    recertify(run.where, again, **changes)
    assert texts(again) == []
    recertify(again, third, alpha=0.3)
    assert texts(third) == []


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, small_run_at):
    return finished(small_run_at(tmp_path_factory.mktemp("verify") / "cert")).local_path


@pytest.fixture
def cert(untouched, tmp_path):
    return Path(shutil.copytree(untouched, tmp_path / "cert"))


def rewrite_table(file, change, metadata=None):
    """Change the rows, and the metadata, of a Parquet file of ours."""
    table = pq.read_table(file)
    known = json.loads(table.schema.metadata[b"rsray"])
    changed = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema)
    file.write_bytes(parquet_bytes(changed, {**known, **(metadata or {})}))


def of_certificates(name, value, row=3):
    def tamper(cert):
        def change(rows):
            rows[row][name] = value
            return rows

        rewrite_table(cert / "certificates.parquet", change)

    return tamper


def of_counts(change):
    def tamper(cert):
        def changed(rows):
            return change(rows) if any(map(is_block, rows)) else rows

        for part in (cert / "counts").iterdir():
            rewrite_table(part, changed)

    return tamper


def is_block(row):
    return (row["index"], row["stage"], row["block"]) == (26, "estimation", 1)


def with_more_hits(rows):
    """Move draws from the least frequent class to the most frequent one."""
    for row in filter(is_block, rows):
        top, least = int(np.argmax(row["counts"])), int(np.argmin(row["counts"]))
        moved = min(row["counts"][least], 5) if top != least else 0
        row["counts"][top] += moved
        row["counts"][least] -= moved
    return rows


def with_more_draws(rows):
    for row in filter(is_block, rows):
        row["counts"][0] += 1
        row["draws"] += 1
    return rows


def of_json(name, *keys, value):
    def tamper(cert):
        found = json.loads((cert / name).read_text())
        inner = found
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (cert / name).write_text(json.dumps(found))

    return tamper


def of_settings(name, value):
    def tamper(cert):
        record = yaml.safe_load((cert / "certify.yaml").read_text())
        (cert / "certify.yaml").write_text(yaml.safe_dump({**record, name: value}))

    return tamper


def without_image(cert):
    """Image 26 has no trace left in counts and certificates."""

    def change(rows):
        return [row for row in rows if row["index"] != 26]

    for file in [cert / "certificates.parquet", *(cert / "counts").iterdir()]:
        rewrite_table(file, change)


def cut_off(cert):
    part = min((cert / "counts").iterdir())
    part.write_bytes(part.read_bytes()[:-30])


# What is done, and a line that names it.
TAMPERING = {
    "a count": (of_counts(with_more_hits), "certificates.parquet: count_a of image 26 is"),
    "draws": (of_counts(with_more_draws), "counts: draws in estimation block 1 of image 26 is 41, not 40"),
    "a missing block": (
        of_counts(lambda rows: [row for row in rows if not is_block(row)]),
        "counts: copies of estimation block 1 of image 26 is 0, not 1",
    ),
    "a doubled block": (
        of_counts(lambda rows: [*rows, *filter(is_block, rows)]),
        "counts: copies of estimation block 1 of image 26 is 2, not 1",
    ),
    "a block that is not owed": (
        of_counts(lambda rows: [*rows, {**next(filter(is_block, rows)), "block": 4}]),
        "counts: copies of estimation block 4 of image 26 is 1, not 0",
    ),
    "an image more": (
        of_counts(lambda rows: [*rows, {**next(filter(is_block, rows)), "index": 27}]),
        "counts: copies of estimation block 1 of image 27 is 1, not 0",
    ),
    "a label": (
        of_counts(lambda rows: [{**row, "label": 3 - row["label"]} if is_block(row) else row for row in rows]),
        "counts: label in estimation block 1 of image 26 is",
    ),
    "a part that is cut off": (cut_off, "is damaged"),
    "a radius": (of_certificates("radius", 0.75), "certificates.parquet: radius of image 26 is 0.75, not"),
    "no number": (of_certificates("p_a_lower", float("nan")), "p_a_lower of image 26 is nan, not"),
    "a prediction": (of_certificates("prediction", 7), "certificates.parquet: prediction of image 26 is 7, not"),
    "correct": (of_certificates("correct", True, row=0), "certificates.parquet: correct of image 5 is True, not False"),
    "draws used": (of_certificates("n", 131), "certificates.parquet: n of image 26 is 131, not 130"),
    "the order": (of_certificates("index", 5), "certificates.parquet: index is"),
    "no rows": (
        lambda cert: rewrite_table(cert / "certificates.parquet", lambda rows: []),
        "certificates.parquet: index is empty, not that of the selected images",
    ),
    "an image left out": (without_image, "certificates.parquet: index is 11 images, not as start 5, skip 7"),
    "the ACR": (of_json("summary.json", "acr", value=0.9), "summary.json: acr is 0.9, not"),
    "an accuracy": (
        of_json("summary.json", "certified_accuracy", "0.00", value=0.99),
        "summary.json: certified_accuracy 0.00 is 0.99, not",
    ),
    "a figure more": (of_json("summary.json", "certified", value=1), "summary.json: certified is 1, not missing"),
    "the speed": (of_json("summary.json", "draws_per_second", value=1.0), "summary.json: draws_per_second is 1.0, not"),
    "no summary": (lambda cert: (cert / "summary.json").unlink(), "summary.json: acr is missing, not"),
    "alpha in the metadata": (
        lambda cert: rewrite_table(cert / "certificates.parquet", lambda rows: rows, {"alpha": 0.001}),
        "certificates.parquet: metadata alpha is 0.001, not 0.05",
    ),
    "a failure that was none": (
        lambda cert: rewrite_table(
            cert / "certificates.parquet", lambda rows: rows[1:], {"failed": {"5": "lost"}}
        ),
        "counts: image 5 is all there, not failed",
    ),
    "alpha in the settings": (of_settings("alpha", 0.001), "holds counts of another run"),
    "class names": (of_settings("classes", ["a", "b", "c", "d"]), "certificates.parquet: metadata classes is [], not ['a'"),
    "the noise level": (of_settings("sigma", 0.6), "holds counts of another run"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_is_found_and_named(cert, kind):
    assert texts(cert) == []
    tamper, line = TAMPERING[kind]
    tamper(cert)
    found = texts(cert)
    assert any(line in text for text in found), found
    with pytest.raises(
        UserError, match="is not what its counts say|is not a sound|is no"
    ) as refused:
        rsray.report(cert)
    assert "\n" not in str(refused.value)


def test_a_log_in_the_folder_is_compared(cert):
    log = cert / "exported.tsv"
    write_log(log, read_certificates(cert / "certificates.parquet"))
    (cert / "notes.tsv").write_text("something\telse\n")
    assert texts(cert) == []
    lines = log.read_text().splitlines()
    radius = max(float(line.split("\t")[3]) for line in lines[1:])
    assert radius > 0
    log.write_text(log.read_text().replace(f"\t{radius:.3f}\t", f"\t{radius + 0.001:.3f}\t", 1))
    (found,) = texts(cert)
    assert found.startswith("exported.tsv: radius of image")
    log.write_text("\n".join(lines[:-1]) + "\n")
    assert texts(cert) == ["exported.tsv: index is 11 images, not those of the certificates"]


def test_a_log_of_all_digits_in_the_folder_is_compared(cert):
    log = cert / "exported.csv"
    write_log(log, read_certificates(cert / "certificates.parquet"))
    (cert / "notes.csv").write_text("something,else\n")
    assert texts(cert) == []
    rows = (line.split(",") for line in log.read_text().splitlines()[1:])
    cells = next(cells for cells in rows if float(cells[3]) > 0)
    more = [*cells[:3], f"{float(cells[3]) + 1e-6:.9f}", *cells[4:]]
    log.write_text(log.read_text().replace(",".join(cells), ",".join(more)))
    (found,) = texts(cert)
    assert found.startswith(f"exported.csv: radius of image {cells[0]} is")


def test_answers_of_at_radius_are_compared(small_run):
    cert = finished(small_run(**MODES["at-radius"])).local_path
    of_json("at_radius.json", "certified_accuracy", "0.05", value=1.0)(cert)
    assert texts(cert)[0].startswith("at_radius.json: certified_accuracy 0.05 is 1.0, not")


def test_a_stop_at_a_good_moment_is_found(small_run):
    """Whoever drops the later blocks of an adaptive run chose n after looking at the draws."""
    run = small_run(sampling="adaptive", tolerance=0.01, n0=40, n=400)
    cert = finished(run).local_path
    image = next(
        row["index"]
        for row in pq.read_table(cert / "certificates.parquet").to_pylist()
        if row["n"] > 80
    )
    for part in (cert / "counts").iterdir():
        rewrite_table(
            part, lambda rows: [r for r in rows if r["index"] != image or r["block"] < 2]
        )  # fmt: skip
    assert any(
        f"copies of estimation block 2 of image {image} is 0, not 1" in text for text in texts(cert)
    )


def test_what_is_no_finished_cert_is_a_mistake(small_run, tmp_path):
    run = small_run()
    with pytest.raises(UserError, match="unfinished"):
        verify(run.where)
    with pytest.raises(UserError, match=r"no CERT folder"):
        verify(Place.of(tmp_path))
    cert = finished(run).local_path
    for part in (cert / "counts").iterdir():
        part.unlink()
    (cert / "counts").rmdir()
    with pytest.raises(UserError, match="has no counts"):
        verify(run.where)
    assert not (cert / "counts").exists()
    assert rsray.report(cert).table.rows  # which shows certificates without counts, as logs


def test_the_command(cert, monkeypatch, capsys):
    from rsray_cli.main import run

    def status(*arguments):
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.setattr(sys, "argv", ["rsray", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            run()
        return stopped.value.code or 0, capsys.readouterr().out.splitlines()

    assert status(cert)[0] == 0
    of_certificates("radius", 0.75)(cert)
    code, lines = status(cert, cert)
    assert code == 1 and len(lines) == 4 and "1 DIFFERENCES" in lines[0]
    assert lines[1].startswith("  certificates.parquet: radius of image 26 is 0.75, not ")


def test_what_noise_lacks_of_the_exact_one_is_taken_off(small_run, monkeypatch):
    exact = read_certificates(finished(small_run("exact")) / "certificates.parquet")
    monkeypatch.setattr(CertifyConfig, "total_variation", property(lambda config: 0.01))
    cert = finished(small_run("rough"))
    assert texts(cert) == []
    rough = read_certificates(cert / "certificates.parquet")
    certified = exact.p_a_lower > 0.5
    assert certified.any() and np.allclose((exact.p_a_lower - rough.p_a_lower)[certified], 0.01)
    monkeypatch.undo()
    assert any("metadata noise_total_variation is 0.01, not" in text for text in texts(cert))
    assert any("p_a_lower of image" in text for text in texts(cert))


def test_a_cert_from_before_a_setting_was_known_is_equal(small_run):
    """Then neither certify.yaml nor the metadata hold it."""
    cert = finished(small_run(noise="float")).local_path
    new = ("noise", "noise_total_variation", "is_spread")
    record = yaml.safe_load((cert / "certify.yaml").read_text())
    old = {key: value for key, value in record.items() if key not in new}
    (cert / "certify.yaml").write_text(yaml.safe_dump(old))
    summary = json.loads((cert / "summary.json").read_text())
    (cert / "summary.json").write_text(json.dumps({k: summary[k] for k in summary if k not in new}))
    found = texts(cert)
    assert found == []
    table = pq.read_table(cert / "certificates.parquet")
    metadata = json.loads(table.schema.metadata[b"rsray"])
    kept = {key: value for key, value in metadata.items() if key not in new}
    (cert / "certificates.parquet").write_bytes(parquet_bytes(table, kept))
    assert texts(cert) == []
    (cert / "certify.yaml").write_text(yaml.safe_dump(record))
    assert "certificates.parquet: metadata noise is missing, not float32" in texts(cert)
