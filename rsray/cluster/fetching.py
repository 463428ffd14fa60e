"""Bring a job's results to this machine: from storage, through ssh, or through a job's log."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pyarrow import fs

from rsray.cluster.dashboard import Dashboard
from rsray.cluster.jobs import ENDED_STATUSES, Job, JobRecord, read_records
from rsray.cluster.ssh import Host, shell_path
from rsray.errors import UserError
from rsray.storage import Place, one_line, open_filesystem
from rsray.storage.address import printable_address, split_options

# Results are lines of a log that begin like this; the last one says "end".
LOG_PREFIX, LOG_END = "rsray> ", "end"
# A job's log may carry so many bytes of results.
MOST_LOG_BYTES = 64 * 2**20
LOG_JOB_SECONDS = 120.0
TAR_COMMAND = "tar --exclude=./.lock --exclude='./.tmp-*' --exclude='./.ray-train-*'"


def results_of(dashboard: Dashboard, job: Job, out: str | None = None) -> JobRecord:
    """Return where a job's results are and go: as this machine's record or the user's `out` says.

    What the cluster says counts only for a job that was submitted elsewhere, with an `out`, and
    names no storage but the cluster's own. UserError for another.
    """
    here = str(Path(out).expanduser().absolute()) if out is not None else None
    record = read_records(dashboard.name).get(job.id)
    if record is not None:
        return record.model_copy(update={"out_here": here}) if here is not None else record
    storage, options = split_options(dashboard.layout.results or "")
    there, its_options = split_options(job.out_there)
    is_own = there.startswith(storage.rstrip("/") + "/") and its_options == options
    if here is not None and "://" in there and not is_own:
        raise UserError(f"{job.id} was not submitted from here, and {job.out_there} is not fetched")
    return JobRecord(cluster=dashboard.name, job=job.id, out_there=job.out_there, out_here=here)


def fetch_results(dashboard: Dashboard, results: JobRecord) -> Path | None:
    """Bring the results of a job to the local folder that is theirs, and return that folder.

    None when the results are to stay where they are. Files here of the same names are replaced;
    no link is followed. Raises UserError when there are none, or too many for the way they take.
    """
    if results.out_here is None:
        return None
    target, there = Place.of(results.out_here), results.out_there
    target.make()
    with tempfile.TemporaryDirectory(dir=target.local_path, prefix=".tmp-") as folder:
        if "://" in there:
            _copy_from_storage(there, Path(folder))
        elif dashboard.head is not None:
            with tempfile.TemporaryFile(dir=target.local_path) as archive:
                _through_ssh(dashboard.head, there, archive)
                _unpack_archive(archive, Path(folder))
        else:
            _unpack_archive(io.BytesIO(_through_log(dashboard, there)), Path(folder))
        _move_files(Path(folder), target)
    return target.local_path


def _copy_from_storage(uri: str, folder: Path) -> None:
    """Copy the files of an object store into a folder; UserError for a name that leads out."""
    filesystem, path = open_filesystem(uri)
    try:
        for info in filesystem.get_file_info(fs.FileSelector(path, recursive=True)):
            name = PurePosixPath(info.path).relative_to(path)
            if info.type != fs.FileType.File or name.parts[0].startswith("."):
                continue
            if ".." in name.parts:
                raise UserError(f"{printable_address(uri)} holds {name}, which leads out of it")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with filesystem.open_input_stream(info.path, compression=None) as stream:
                with (folder / name).open("xb") as file:
                    shutil.copyfileobj(stream, file)
    except (OSError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"cannot fetch {printable_address(uri)}: {one_line(problem)}") from problem


def _through_ssh(head: Host, there: str, archive: IO[bytes]) -> None:
    """Write the archive into a file: results may be larger than memory. A lost host ends ssh."""
    done = head.run(f"{TAR_COMMAND} -C {shell_path(there)} -czf - .", out=archive)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"cannot fetch {there} from {head.address}: {reason}")
    archive.seek(0)


def _through_log(dashboard: Dashboard, there: str) -> bytes:
    """Return the archive that a small job prints: an address gives no other way to a file."""
    most = MOST_LOG_BYTES * 4 // 3
    entrypoint = (
        f"cd {shell_path(there)} && {TAR_COMMAND} --exclude=./checkpoints -czf - . "
        f"| base64 -w 1000 | head -c {most} | sed 's/^/{LOG_PREFIX}/' "
        f"&& echo '{LOG_PREFIX}{LOG_END}'"
    )
    try:
        said = _log_of(dashboard.job_client(), entrypoint)
    except (OSError, RuntimeError) as problem:
        raise UserError(
            f"cannot fetch {there} through a job of {dashboard.target}: {one_line(problem)}"
        ) from problem
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


def _log_of(client: Any, entrypoint: str) -> list[str]:
    """Return the lines that a job says, which is deleted; RuntimeError where it does not end."""
    job_id = client.submit_job(entrypoint=entrypoint)
    end = time.monotonic() + LOG_JOB_SECONDS
    while str(client.get_job_status(job_id)) not in ENDED_STATUSES and time.monotonic() < end:
        time.sleep(0.5)
    # Ray writes lines of its own into the log, before, after and between ours.
    said: list[str] = client.get_job_logs(job_id).splitlines()
    client.delete_job(job_id)
    return said


def _unpack_archive(archive: IO[bytes], folder: Path) -> None:
    """Unpack the files of an archive into a folder; links and devices are left out.

    Raises UserError for an archive that is damaged, leads out of the folder, or is too large.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            free, size = shutil.disk_usage(folder).free, 0
            for member in tar:
                size += member.size
                if size > free:
                    raise UserError(f"the results fill the disk of {folder.parent}")
                tar.extract(member, folder, filter=_files_only)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as problem:
        raise UserError(f"the results did not come whole: {one_line(problem)}") from problem


def _files_only(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    is_plain = member.isreg() or member.isdir()
    return tarfile.data_filter(member, folder) if is_plain else None


def _move_files(folder: Path, target: Place) -> None:
    """Put the files of a folder in place; each appears whole or not at all, and replaces a link."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        *parents, name = file.relative_to(folder).parts
        place = target
        for parent in parents:
            place /= parent
        os.replace(file, place.make().local_path / name)
