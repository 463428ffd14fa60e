"""What a forger, or a disk, may do to a CERT: each is named, whatever else still agrees."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from test_verify import (
    MODES,
    finished,
    is_block,
    of_certificates,
    of_counts,
    of_json,
    of_settings,
    rewrite_table,
    texts,
)

import rsray
from rsray.certification.checks.verify import verify
from rsray.certification.folder import finish
from rsray.errors import UserError
from rsray.results.certificates import read_certificates
from rsray.results.reading.cohen import write_log
from rsray.storage import Place
from rsray.storage.schemas import parquet_bytes


@pytest.fixture
def cert(small_run):
    return finished(small_run()).local_path


def key(row):
    return row["index"], row["stage"], row["block"]


def all_rows(cert):
    return [
        row
        for part in sorted((cert / "counts").iterdir())
        for row in pq.read_table(part).to_pylist()
    ]


def with_values_of(cert, changes):
    """Give blocks, by their keys, the classes and counts of others."""
    rows = {key(row): row for row in all_rows(cert)}

    def change(part):
        for row in part:
            if key(row) in changes:
                other = rows[changes[key(row)]]
                row.update(classes=other["classes"], counts=other["counts"])
        return part

    for part in (cert / "counts").iterdir():
        rewrite_table(part, change)


def swap_blocks(cert):
    """Of one image: its sums, and so its certificate, stay."""
    first, second = ((26, "estimation", block) for block in (0, 1))
    with_values_of(cert, {first: second, second: first})


def swap_images(cert):
    with_values_of(
        cert,
        {
            (26, "estimation", 1): (12, "estimation", 1),
            (12, "estimation", 1): (26, "estimation", 1),
        },
    )


def remove_and_double(cert):
    """As many rows as before."""
    doubled = next(row for row in all_rows(cert) if key(row) == (26, "estimation", 0))
    of_counts(lambda rows: [doubled if is_block(row) else row for row in rows])(cert)


def move_image(cert):
    def change(rows):
        return [{**row, "index": 27 if row["index"] == 26 else row["index"]} for row in rows]

    for file in [cert / "certificates.parquet", *(cert / "counts").iterdir()]:
        rewrite_table(file, change)


def move_image_far(cert):
    of_certificates("index", 2**50, row=-1)(cert)


def largest_radius_up(cert):
    """By one unit in the last place."""
    radius = read_certificates(cert / "certificates.parquet").radius
    row = int(radius.argmax())
    of_certificates("radius", float(np.nextafter(radius[row], 9)), row=row)(cert)


def acr_up(cert):
    acr = json.loads((cert / "summary.json").read_text())["acr"]
    of_json("summary.json", "acr", value=float(np.nextafter(acr, 9)))(cert)


def metadata(**values):
    return lambda cert: rewrite_table(cert / "certificates.parquet", lambda rows: rows, values)


def disorder(rows):
    for row in filter(is_block, rows):
        row["classes"], row["counts"] = row["classes"][::-1], row["counts"][::-1]
    return rows


def cut_table(cert):
    table = cert / "certificates.parquet"
    table.write_bytes(table.read_bytes()[:-40])


def relabel(cert):
    label = read_certificates(cert / "certificates.parquet").label[3]
    of_certificates("label", 3 - int(label))(cert)


FORGERIES = {
    "blocks of an image swapped": (swap_blocks, "certificates.parquet: metadata counts_digest is"),
    "blocks of two images swapped": (swap_images, "certificates.parquet: metadata counts_digest is"),
    "a block removed, another doubled": (remove_and_double, "copies of estimation block 1 of image 26 is 0, not 1"),
    "an image moved": (move_image, "certificates.parquet: index is 12 images, not as start 5, skip 7"),
    "an image moved far": (move_image_far, "certificates.parquet: index is 12 images, not as start 5, skip 7"),
    "a label": (relabel, "counts: label in selection block 0 of image 26 is"),
    "a radius, the last bit": (largest_radius_up, "certificates.parquet: radius of image"),
    "the ACR, the last bit": (acr_up, "summary.json: acr is"),
    "noise that needs nothing off": (metadata(noise_total_variation=0.0), "metadata noise_total_variation is 0.0, not"),
    "other noise": (metadata(noise="float32"), "metadata noise is float32, not grid"),
    "a number for a truth": (metadata(compiled=0), "metadata compiled is 0, not False"),
    "classes in disorder": (of_counts(disorder), "the classes of a block are not ascending"),
    "a table that is cut off": (cut_table, "is not a complete Parquet file"),
    "no table": (lambda cert: (cert / "certificates.parquet").unlink(), "CERT: what it holds is of no use"),
    "no settings": (lambda cert: (cert / "certify.yaml").unlink(), "it has no certify.yaml"),
    "impossible settings": (of_settings("alpha", 2), "CERT: what it holds is of no use"),
    "a list for a summary": (lambda cert: (cert / "summary.json").write_text("[]"), "summary.json: alpha is missing"),
    "a summary of no figures": (of_json("summary.json", "certified_accuracy", value=None), "certified_accuracy is None"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forgery_is_named_by_the_command_and_refused_by_report(cert, kind, monkeypatch, capsys):
    from rsray_cli.main import run

    forge, line = FORGERIES[kind]
    forge(cert)
    monkeypatch.setattr(sys, "argv", ["rsray", "verify", str(cert)])
    with pytest.raises(SystemExit) as stopped:
        run()
    output = capsys.readouterr().out
    assert stopped.value.code == 1 and line in output, output
    with pytest.raises(UserError):
        rsray.report(cert)


def test_digits_that_another_library_may_round_otherwise_are_the_same(cert):
    for tamper in (
        metadata(decided_by="another"),
        of_json("summary.json", "decided_by", value="another"),
    ):
        tamper(cert)
    assert texts(cert) == []
    largest_radius_up(cert)
    acr_up(cert)
    assert texts(cert) == []
    metadata(noise_total_variation=0.0)(cert)
    assert len(texts(cert)) == 1
    of_certificates("radius", 0.75)(cert)
    assert any("radius of image 26 is 0.75" in text for text in texts(cert))


def test_only_what_computed_the_certificates_may_name_itself(cert):
    metadata(decided_by="another")(cert)
    assert texts(cert) == [f"summary.json: decided_by is {rsray_arithmetic()}, not another"]


def rsray_arithmetic():
    from rsray.versions import arithmetic

    return arithmetic()


def test_a_cert_of_before_the_digest_is_equal_to_nine_digits(cert):
    new = ("counts_digest", "decided_by")
    table = pq.read_table(cert / "certificates.parquet")
    known = json.loads(table.schema.metadata[b"rsray"])
    kept = {name: value for name, value in known.items() if name not in new}
    (cert / "certificates.parquet").write_bytes(parquet_bytes(table, kept))
    summary = json.loads((cert / "summary.json").read_text())
    (cert / "summary.json").write_text(json.dumps({k: summary[k] for k in summary if k not in new}))
    assert texts(cert) == []


def test_counts_without_settings_are_no_log(cert):
    """A report shows a table without counts as it shows a log; one whose counts are there is checked."""
    (cert / "certify.yaml").unlink()
    with pytest.raises(UserError, match=r"it has no certify.yaml"):
        rsray.report(cert)


@pytest.mark.parametrize(
    ("bound", "name", "factor"),
    [("hoeffding", "sums", 1.01), ("bernstein", "square_sums", 0.0), ("bernstein", "square_sums", 100.0)],
)  # fmt: skip
def test_sums_that_no_probabilities_have_are_damage(small_run, bound, name, factor):
    """Without squares there is no variance, and with more than 1 in all no certificate that holds."""
    cert = finished(small_run(**MODES[bound])).local_path

    def change(rows):
        for row in filter(is_block, rows):
            row[name] = [factor * value for value in row[name]]
        return rows

    of_counts(change)(cert)
    assert any("the sums are of no probabilities" in text for text in texts(cert))


def test_a_forged_log_is_named(cert):
    log = cert / "exported.tsv"
    write_log(log, read_certificates(cert / "certificates.parquet"))
    lines = log.read_text().splitlines()
    cells = lines[4].split("\t")
    cells[1] = str(3 - int(cells[1]))
    log.write_text("\n".join([*lines[:4], "\t".join(cells), *lines[5:], ""]))
    (found,) = texts(cert)
    assert found.startswith("exported.tsv: label of image 26 is")
    log.write_text("\n".join([*lines[:4], "26\tx", *lines[5:], ""]))
    (found,) = texts(cert)
    assert found.startswith("exported.tsv: it is") and found.endswith("not a whole log")


def test_an_audit_that_contradicts_itself_is_not_shown(cert, caplog):
    from rsray.results.audited import certificates_digest, read_audit

    record = {
        "passed": True, "blocks": 5, "stored_blocks": 60, "num_differences": 0, "p_value": None,
        "level": 0.001, "certificates_digest": certificates_digest(Place.of(cert)),
    }  # fmt: skip
    for forged in (
        {},
        {"num_differences": 1},
        {"p_value": 1e-9},
        {"blocks": 61},
        {"passed": False},
    ):
        (cert / "audit.json").write_text(json.dumps({**record, **forged}))
        assert (read_audit(Place.of(cert)) is not None) == (not forged), forged
    assert caplog.text.count("is no audit of these certificates") == 4


def test_certificates_made_again_say_what_made_them(small_run, tmp_path):
    from rsray.certification.recertify import recertify

    run = small_run()
    again = Place.of(tmp_path / "again")
    recertify(finished(run), again, alpha=0.2)
    largest_radius_up(again.local_path)
    assert len(texts(again.local_path)) == 1


@pytest.mark.parametrize("bound", ["clopper-pearson", "tcertify"])
def test_statsmodels_has_its_own_word(small_run, bound, monkeypatch):
    """A fault in rsray's own bound is found though all else follows from it."""
    from rsray.core.bounds import clopper_pearson, tcertify

    def generous(counts, n, alpha, right=clopper_pearson.clopper_pearson_lower):
        return right(counts, n, 1.01 * np.asarray(alpha))

    for module in (clopper_pearson, tcertify):
        monkeypatch.setattr(module, "clopper_pearson_lower", generous)
    found = verify(finished(small_run(bound=bound)))
    assert found.is_independent and "by statsmodels" in str(found)
    assert any("p_a_lower of image" in str(each) for each in found.differences)


def test_a_run_that_ends_again_on_the_same_counts_has_the_same_digest(small_run):
    run = small_run()
    finished(run)
    first = json.loads((run.where.local_path / "summary.json").read_text())
    parts = sorted((run.where.local_path / "counts").iterdir())
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()][::-1]
    rewrite_table(parts[0], lambda _: rows)
    for part in parts[1:]:
        part.unlink()
    finish(run.claimed, run.gathered(), seconds=2.0, failed={})
    assert json.loads((run.where.local_path / "summary.json").read_text()) == first
    settings = yaml.safe_load((run.where.local_path / "certify.yaml").read_text())
    assert len(first["counts_digest"]) == 16 and "counts_digest" not in settings
