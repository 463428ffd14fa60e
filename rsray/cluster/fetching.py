"""Bring a job's results to this machine: from storage, through ssh, or through a job's log."""

from __future__ import annotations

import base64
import binascii
import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

from rsray.cluster.dashboard import Dashboard
from rsray.cluster.jobs import ENDED_STATUSES, Job
from rsray.cluster.ssh import shell_path
from rsray.errors import UserError

# Results are lines of a log that begin like this; the last one says "end".
LOG_PREFIX, LOG_END = "rsray> ", "end"
# A job's log may carry so many bytes of results.
MOST_LOG_BYTES = 64 * 2**20
LOG_JOB_SECONDS = 120.0
TAR_COMMAND = "tar --exclude=./.lock --exclude='./.tmp-*' --exclude='./.ray-train-*'"


def fetch_results(dashboard: Dashboard, job: Job) -> Path | None:
    """Bring the results of a job to the local folder it was to write to, and return that folder.

    None when the results are to stay where they are, in an object store. Files here of the same
    names are replaced. Raises UserError when there are none, or too many for the way they take.
    """
    if job.out_here is None or job.out_there is None:
        return None
    target = Path(job.out_here)
    if "://" in job.out_there:
        _copy_from_storage(job.out_there, target)
        return target
    archive = (
        _through_ssh(dashboard, job.out_there)
        if dashboard.head is not None
        else _through_log(dashboard, job.out_there)
    )
    _unpack_archive(archive, target)
    return target


def _copy_from_storage(uri: str, target: Path) -> None:
    from pyarrow import fs

    from rsray.storage import open_filesystem

    filesystem, path = open_filesystem(uri)
    target.mkdir(parents=True, exist_ok=True)
    try:
        fs.copy_files(path, str(target), filesystem, fs.LocalFileSystem())
    except OSError as problem:
        raise UserError(f"cannot fetch {uri}: {' '.join(str(problem).split())}") from problem


def _through_ssh(dashboard: Dashboard, there: str) -> bytes:
    assert dashboard.head is not None
    done = dashboard.head.run(f"{TAR_COMMAND} -C {shell_path(there)} -czf - .", timeout=3600)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"cannot fetch {there} from {dashboard.head.address}: {reason}")
    return done.stdout


def _through_log(dashboard: Dashboard, there: str) -> bytes:
    """Return the archive that a small job prints: an address gives no other way to a file."""
    client = dashboard.job_client()
    most = MOST_LOG_BYTES * 4 // 3
    job_id = client.submit_job(
        entrypoint=f"cd {shell_path(there)} && {TAR_COMMAND} --exclude=./checkpoints -czf - . "
        f"| base64 -w 1000 | head -c {most} | sed 's/^/{LOG_PREFIX}/' "
        f"&& echo '{LOG_PREFIX}{LOG_END}'"
    )
    end = time.monotonic() + LOG_JOB_SECONDS
    while str(client.get_job_status(job_id)) not in ENDED_STATUSES and time.monotonic() < end:
        time.sleep(0.5)
    # Ray writes lines of its own into the log, before, after and between ours.
    said = client.get_job_logs(job_id).splitlines()
    client.delete_job(job_id)
    lines = [line.removeprefix(LOG_PREFIX) for line in said if line.startswith(LOG_PREFIX)]
    body = "".join(lines[:-1])
    try:
        if lines[-1:] == [LOG_END] and len(body) < most - len(lines):
            return base64.b64decode(body, validate=True)
    except binascii.Error:
        pass
    raise UserError(
        f"cannot fetch {there} of the cluster at {dashboard.target}, at most "
        f"{MOST_LOG_BYTES // 2**20} MiB: give --out s3://... or gs://..."
    )


def _unpack_archive(archive: bytes, target: Path) -> None:
    """Put the files of an archive in place; each appears whole or not at all."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".tmp-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            tar.extractall(folder, filter="data")
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
