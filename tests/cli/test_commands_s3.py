"""The commands themselves with everything on an S3 server: data, RUN, CERT; killed and continued."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsray.results.reading.sources import load_results

RSRAY = (sys.executable, "-c", "from rsray_cli.main import run; run()")
QUICK = ("--precision", "fp32", "--compile", "off")


def rsray(*arguments, status=0):
    done = subprocess.run([*RSRAY, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == status, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def pictures(bucket):
    """Three classes of grey 8 x 8 pictures that a small network can tell, in the bucket."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 12)):
        for i in range(count):
            pixels = rng.integers(0, 60, (8, 8)).astype(np.uint8)
            pixels[:, (i % 3) * 3 : (i % 3) * 3 + 2] += 190
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            bucket.put(f"pictures/{split}/{'abc'[i % 3]}/{i:02}.png", stream.getvalue())
    return bucket.uri("pictures")


def columns(key, bucket):
    return pq.read_table(io.BytesIO(bucket.get(key))).to_pydict()


@pytest.mark.long
def test_from_pictures_to_report_on_s3(bucket, pictures, tmp_path):
    shards, run, cert = (bucket.uri(name) for name in ("shards", "run", "cert"))
    rsray("data", "convert", pictures, "--out", shards, "--shard-size", "25")
    trained = rsray(
        "train", "--dataset", "parquet", "--data-root", shards, "--objective", "gaussian", "--model", "lenet",
        "--epochs", "3", "--sigma", "0.3", "--precision", "fp32", "--out", run,
    )  # fmt: skip
    assert trained.stdout.strip() == run
    rsray("certify", run, "--n", "2000", *QUICK, "--out", cert)
    summary = json.loads(bucket.get("cert/summary.json"))
    assert summary["num_images"] == 12 and summary["draws"] == 12 * 2100

    # The same from local files gives the same certificates.
    local = tmp_path / "run"
    local.mkdir()
    for name in ("run.yaml", "model.safetensors"):
        (local / name).write_bytes(bucket.get(f"run/{name}"))
    rsray("certify", str(local), "--n", "2000", *QUICK, "--out", str(tmp_path / "cert"))
    a, b = load_results([cert, tmp_path / "cert"]).results
    assert all(np.array_equal(a.columns()[name], b.columns()[name]) for name in a.columns())

    rsray("recertify", cert, "--alpha", "0.05")
    assert "cert-alpha0.05/certificates.parquet" in bucket.keys()
    report = rsray(
        "report", cert, f"{cert}-alpha0.05", "--html", bucket.uri("page.html"), "--format", "csv"
    )
    assert report.stdout.count("\n") >= 3 and b"<html" in bucket.get("page.html")
    assert "another run" in rsray(
        "train", "--dataset", "parquet", "--data-root", shards, "--objective", "gaussian", "--model", "lenet",
        "--epochs", "3", "--sigma", "0.5", "--precision", "fp32", "--out", run, status=2,
    ).stderr  # fmt: skip
    refused = rsray("certify", run, "--n", "4000", *QUICK, "--out", cert, status=2)
    assert "belongs to another certification: n is 4000" in refused.stderr


def until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.2)


def started(*arguments):
    return subprocess.Popen(
        [*RSRAY, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def kill(process):
    """Kill the driver as a crash does; the Ray that it started goes with it."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


@pytest.mark.long
def test_a_killed_certification_on_s3_repeats_no_block(bucket, tmp_path):
    run, cert = tmp_path / "run", bucket.uri("cert")
    rsray(
        "train", "--dataset", "digits", "--objective", "gaussian", "--epochs", "2", "--precision", "fp32",
        "--out", str(run),
    )  # fmt: skip
    command = (
        "certify",
        str(run),
        "--limit",
        "20",
        "--n",
        "50000",
        "--actors",
        "2",
        *QUICK,
        "--out",
        cert,
    )
    first = started(*command)
    until(lambda: bucket.keys("cert/counts/"), first)
    second = rsray(*command, status=2)  # while the first one runs
    assert "another rsray is writing to s3://" in second.stderr
    kill(first)
    kept = {key: bucket.get(key) for key in bucket.keys("cert/counts/")}
    rsray(*command)
    assert {key: bucket.get(key) for key in kept} == kept  # they were used, not drawn again
    blocks = [
        block
        for key in bucket.keys("cert/counts/")
        for table in [columns(key, bucket)]
        for block in zip(table["index"], table["stage"], table["block"], strict=True)
    ]
    assert len(blocks) == len(set(blocks)) == 20 * 51
    assert [key for key in bucket.keys("cert/") if "claim" in key] == []


@pytest.mark.long
def test_two_workers_train_on_s3_and_continue_after_a_kill(bucket):
    where = bucket.uri("run")
    command = (
        "train", "--dataset", "digits", "--objective", "gaussian", "--epochs", "12", "--precision", "fp32",
        "--workers", "2", "--batch-size", "32", "--out", where,
    )  # fmt: skip
    first = started(*command)
    until(lambda: len(bucket.keys("run/checkpoints/")) >= 2, first)
    kill(first)
    done = max(bucket.keys("run/checkpoints/"))
    before = bucket.get("run/metrics.jsonl").splitlines()
    epochs_done = int(done.removesuffix(".pt").rpartition("-")[2])
    assert 0 < epochs_done < 12
    rsray(*command)
    after = bucket.get("run/metrics.jsonl").splitlines()
    assert [json.loads(line)["epoch"] for line in after] == list(range(12))
    assert after[:epochs_done] == before[:epochs_done]  # figures with their seconds: not made again
    assert "run/model.safetensors" in bucket.keys()
