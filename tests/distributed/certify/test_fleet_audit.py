"""Audits by the fleet: from the CERT and the RUN as a user gives them."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

import rsray
from rsray.errors import UserError
from rsray.progress import Watch
from rsray.storage.schemas import parquet_bytes


@pytest.fixture(scope="module")
def cert(ray_session, digits_run, tmp_path_factory):
    return rsray.certify(
        digits_run, n=1000, block_size=250, limit=20, precision="fp32", actors=2, progress=False, address="local",
        out=tmp_path_factory.mktemp("audit") / "cert",
    ).place.local_path  # fmt: skip


@pytest.mark.slow
def test_the_fleet_draws_blocks_again_and_tells_how_far_it_is(cert, digits_run):
    told = []
    found = rsray.audit(
        cert, digits_run, fraction=1.0, address="local", progress=Watch(certifying=told.append)
    )
    assert found.is_passed and found.num_exact == found.num_stored == 100, found
    assert told[-1]["draws"] == told[-1]["draws_owed"] == 20 * 1100
    record = json.loads((cert / "audit.json").read_text())
    assert record["passed"] and not record["seed_was_given"] and record["seed"] == found.seed
    assert rsray.report(cert).table.cells()[0][-1] == "passed, 100 of 100 blocks"


@pytest.mark.slow
def test_other_precision_passes_by_a_test(cert, digits_run):
    found = rsray.audit(
        cert, digits_run, blocks=10, precision="bf16", address="local", progress=False
    )
    assert found.is_passed and found.num_exact == 0 and found.p_value > 0.001
    assert found.unlike == ("precision is bf16, was fp32",)


@pytest.mark.slow
def test_another_network_is_refused_or_found_out(cert, digits_run, tmp_path):
    run = rsray.train(
        dataset="digits", objective="gaussian", epochs=1, lr=0.1, seed=9, out=tmp_path / "other",
        progress=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="is not the network that .* certifies: the SHA-256"):
        rsray.audit(cert, run, progress=False)


@pytest.mark.slow
def test_a_cert_that_differs_is_not_drawn_again(cert, digits_run, tmp_path):
    copy = tmp_path / "cert"
    shutil.copytree(cert, copy)
    table = pq.read_table(copy / "certificates.parquet")
    rows = table.to_pylist()
    rows[4]["radius"] += 0.1
    metadata = json.loads(table.schema.metadata[b"rsray"])
    (copy / "certificates.parquet").write_bytes(
        parquet_bytes(table.from_pylist(rows, schema=table.schema), metadata)
    )
    found = rsray.audit(copy, digits_run, progress=False)
    assert not found.is_passed and found.num_audited == 0
    (line,) = map(str, found.differences)
    assert line.startswith(f"certificates.parquet: radius of image {rows[4]['index']} is")


@pytest.mark.slow
def test_a_changed_count_on_which_no_certificate_rests_is_drawn_again_and_named(
    cert, digits_run, tmp_path
):
    copy = tmp_path / "cert"
    shutil.copytree(cert, copy)
    top = {row["index"]: row["prediction"] for row in rsray.Certification(copy).table.to_pylist()}
    part = min((copy / "counts").iterdir())
    table = pq.read_table(part)
    rows = table.to_pylist()
    row, a, b = next(
        (row, *others[:2])
        for row in rows
        if row["stage"] == "estimation"
        and len(others := [i for i, c in enumerate(row["classes"]) if c != top[row["index"]]]) > 1
        and row["counts"][others[1]] > 1
    )
    row["counts"][a], row["counts"][b] = row["counts"][a] + 1, row["counts"][b] - 1
    metadata = json.loads(table.schema.metadata[b"rsray"])
    part.write_bytes(parquet_bytes(table.from_pylist(rows, schema=table.schema), metadata))
    found = rsray.audit(copy, digits_run, fraction=1.0, progress=False)
    lines = [str(each) for each in found.differences]
    assert not found.is_passed and found.num_audited == found.num_stored and len(lines) == 3
    assert lines[2].startswith(f"counts: counts in estimation block {row['block']} of image ")
