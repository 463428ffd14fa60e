"""A certification whose CERT is on an S3 server: no draw lost, none made twice, one owner."""

import numpy as np
import pytest

from rsray.certification import folder as cert_folder
from rsray.certification.counts.gathering import gather
from rsray.certification.recertify import default_target, recertify
from rsray.errors import UserError
from rsray.results.reading.sources import load_results
from rsray.storage import Place


@pytest.fixture
def store(bucket_of_options):
    return bucket_of_options


@pytest.fixture
def remote(small_run, tiny, images, store):
    """Make the small run of this folder's tests on S3."""
    SmallRun = type(small_run())
    return lambda **settings: SmallRun(store.uri("cert"), tiny(), images, **settings)


def finished(run):
    return cert_folder.finish(run.claimed, run.gathered(), seconds=1.0, failed={})


def test_an_interrupted_run_continues_where_it_was(remote, small_run, store):
    first = remote()
    items = first.items()
    first.count(items[: len(items) // 2])
    stored = store.keys("cert/counts/")
    assert stored

    again = remote()  # another process would: all it knows is on S3
    owed = again.items()
    done_before = {(item.index, item.first_block) for item in items[: len(items) // 2]}
    assert owed and done_before.isdisjoint((item.index, item.first_block) for item in owed)
    again.count(owed)
    assert set(stored) < set(store.keys("cert/counts/"))  # parts are added, never rewritten
    summary = finished(again)

    undisturbed = small_run("local")
    undisturbed.count()
    expected = finished(undisturbed)
    assert [summary[key] for key in ("acr", "draws", "num_images")] == [
        expected[key] for key in ("acr", "draws", "num_images")
    ]
    on_s3, local = load_results([store.uri("cert"), undisturbed.where]).results
    for name, column in local.columns().items():
        assert np.array_equal(column, on_s3.columns()[name]), name
    assert on_s3.name == "cert"


def test_a_damaged_part_is_counted_again(remote, store):
    run = remote()
    run.count()
    before = finished(run)
    key = store.keys("cert/counts/")[0]
    store.put(key, store.get(key)[:-20])
    again = remote()
    gather(again.store, again.selected, again.claimed.plan, drop_damaged=True)
    assert key not in store.keys("cert/counts/")
    assert again.items()
    again.count()
    assert finished(again)["acr"] == before["acr"]


def test_the_folder_of_another_run_is_refused(remote, store):
    remote()
    with pytest.raises(UserError, match="cert belongs to another certification: sigma is 0.7"):
        run = remote()
        cert_folder.recorded_evaluation(run.where, run.config.model_copy(update={"sigma": 0.7}))
    store.put("other/notes.txt", b"mine")
    with pytest.raises(UserError, match="not empty and is no certification"):
        cert_folder.recorded_evaluation(Place.of(store.uri("other")), run.config)
    with pytest.raises(UserError, match="is a file"):
        cert_folder.recorded_evaluation(Place.of(store.uri("other/notes.txt")), run.config)


def test_counts_of_another_run_are_refused(remote, store):
    run = remote()
    rows = next(iter(run.tables(run.items())))
    run.store.run_id = "another"
    run.store.append(rows)
    with pytest.raises(UserError, match="holds counts of another run"):
        remote().gathered()


def test_recertify_from_s3_to_s3(remote, small_run, store):
    run = remote()
    run.count()
    finished(run)
    where = default_target(store.uri("cert"), alpha=0.2, n=80)
    assert where.startswith(f"s3://{store.name}/cert-alpha0.2-n80")
    summary = recertify(run.where, Place.of(where), alpha=0.2, n=80)
    assert "cert-alpha0.2-n80/certificates.parquet" in store.keys()

    local = small_run("local")
    local.count()
    finished(local)
    expected = recertify(local.where, Place(f"{local.where.uri}-2"), alpha=0.2, n=80)
    assert (summary["acr"], summary["draws"]) == (expected["acr"], expected["draws"])


def test_the_commands_that_need_no_model(remote, store):
    from typer.testing import CliRunner

    from rsray_cli.main import app

    run = remote()
    run.count()
    finished(run)
    done = CliRunner().invoke(app, ["recertify", store.uri("cert"), "--alpha", "0.2"])
    assert done.exit_code == 0, done.output
    assert "cert-alpha0.2/summary.json" in store.keys()
    where = [store.uri("cert"), store.uri("cert-alpha0.2"), store.uri("cert/certificates.parquet")]
    plot = ["--plot", store.uri("curve.svg"), "--html", store.uri("page.html")]
    done = CliRunner().invoke(app, ["report", *where, "--format", "csv", *plot])
    assert done.exit_code == 0, done.output
    assert "cert-alpha0.2" in done.output
    assert b"<html" in store.get("page.html") and b"<svg" in store.get("curve.svg")
