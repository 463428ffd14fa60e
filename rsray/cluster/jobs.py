"""Run an rsray command as a job of a cluster: submit it, follow its log, find it again.

What a cluster says of a job decides nothing on this machine: results are written where this
machine's own record (~/.rsray/jobs.jsonl) or the user's --out says.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rsray.cluster.dashboard import Dashboard
from rsray.cluster.packaging import CommandLine, copy_all, remote_out
from rsray.cluster.ssh import shell_path
from rsray.errors import UserError, printable
from rsray.storage import Place, one_line
from rsray.storage.address import address_in

# A job's metadata say under this key where its results are on the cluster.
OUT_THERE = "rsray_out_there"
# The others run in the job's own process.
ON_WORKERS = ("tune", "train", "certify")
PREDICTIONS = "predictions.parquet"
RUN_CODE = "from rsray_cli.main import run; run()"
ENDED_STATUSES = ("SUCCEEDED", "FAILED", "STOPPED")
# A job's log is asked for again so often, after so many seconds.
MOST_RECONNECTS = 20
RECONNECT_SECONDS = 3.0
AGENT_SECONDS = 90.0


class SilentClusterError(UserError):
    """The connection to a job's log is gone; the job is not."""


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it."""

    id: str
    status: str
    exit_code: int | None
    out_there: str
    entrypoint: str

    @property
    def command(self) -> str:
        """The rsray command that it runs."""
        found = re.search(r"run\(\)' (.*)", self.entrypoint)
        return printable(f"rsray {found.group(1)}" if found else self.entrypoint)


class JobRecord(BaseModel):
    """A job that was submitted from here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    # The cluster's name, or the address of its dashboard.
    cluster: str
    job: str
    # Where the cluster writes, and where that is to be on this machine; None leaves it there.
    out_there: str
    out_here: str | None = None


def _records_file() -> Path:
    return Path.home() / ".rsray" / "jobs.jsonl"


def keep_record(record: JobRecord) -> None:
    """Append a job to the record, which only its owner can read."""
    file = _records_file()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(file, flags, 0o600), "a") as stream:
            stream.write(record.model_dump_json() + "\n")
    except OSError as problem:
        raise UserError(f"cannot keep the job in {file}: {problem.strerror}") from problem


def read_records(cluster: str) -> dict[str, JobRecord]:
    """Return the jobs that were submitted from here to a cluster, by id, in their order."""
    try:
        lines = _records_file().read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as problem:
        raise UserError(f"cannot read {_records_file()}: {problem.strerror}") from problem
    found = {}
    for line in lines:
        # One that was cut off, or is none of ours, is left out.
        with suppress(ValueError):
            record = JobRecord.model_validate_json(line)
            if record.cluster == cluster:
                found[record.job] = record
    return found


def refuse_other_results(cluster: str, command: str, out: str) -> None:
    """Raise UserError where a job's results would come among others of a local folder.

    The cluster knows nothing of them: it would not go on with them, and replace some of their
    files. Those of an earlier job to that folder are its own.
    """
    if "://" in out or command == "predict":
        return
    place = Place.of(out)
    if place.is_file():
        raise UserError(f"{out} is a file: --out needs a folder")
    is_taken = place.is_dir() and any(not name.startswith(".") for name in place.names())
    came = {record.out_here for record in read_records(cluster).values()}
    if is_taken and str(Path(out).expanduser().absolute()) not in came:
        raise UserError(
            f"{out} is not empty, and nothing in it came from {cluster}, which would begin anew "
            "and replace files there: use another --out"
        )


def submit_job(
    dashboard: Dashboard, line: CommandLine, out: str, say: Callable[[str], None]
) -> str:
    """Ship the package and submit the command, which writes to `out`; returns the job's id.

    A local `out` is written to the cluster's storage, and `fetch_results` brings it where this
    machine's record says. Raises UserError when what is to travel is missing or too large.
    """
    is_local = "://" not in out
    base = dashboard.layout.results or address_in(dashboard.layout.root, "out")
    there = remote_out(out, base) if is_local else out
    whole = Path(out).expanduser().absolute()
    words, written = line.there(), there
    if is_local and words[0] == "predict":
        # Of a file its folder is fetched.
        is_file = whole.suffix == ".parquet"
        written = address_in(there, whole.name if is_file else PREDICTIONS)
        whole = whole.parent if is_file else whole
    here = str(whole) if is_local else None
    words += ["--out", written]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    job_id = f"rsray-{words[0]}-{stamp}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="rsray-") as folder:
        staged = copy_all(line, Path(folder) / "package", say)
        keep_record(JobRecord(cluster=dashboard.name, job=job_id, out_there=there, out_here=here))
        _send_job(
            dashboard,
            entrypoint=job_command(dashboard, words),
            submission_id=job_id,
            runtime_env={"working_dir": str(staged), "env_vars": {"PYTHONUNBUFFERED": "1"}},
            metadata={OUT_THERE: there},
        )
    return job_id


def job_command(dashboard: Dashboard, words: list[str]) -> str:
    """Return the shell command that runs an rsray command on the head."""
    python = shell_path(dashboard.layout.python)
    wanted = [f"{name}={amount}" for name, amount in dashboard.layout.wait_for.items() if amount]
    wait = f"{python} -m rsray.cluster.wait_for_resources {shlex.join(wanted)} && "
    first = wait if wanted and words[0] in ON_WORKERS else ""
    return f"{first}{python} -c {shlex.quote(RUN_CODE)} {shlex.join(words)}"


def _send_job(dashboard: Dashboard, **request: Any) -> None:
    """Submit a job; on a head that has just started the agent that takes it may still be coming."""
    end = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            dashboard.job_client().submit_job(**request)
            return
        except RuntimeError as problem:
            reason = one_line(problem)
            if "No available agent" not in reason or time.monotonic() > end:
                raise UserError(f"{dashboard.target} does not take the job: {reason}") from problem
        time.sleep(RECONNECT_SECONDS)


def find_job(dashboard: Dashboard, job_id: str | None = None) -> Job:
    """Return a job by its id, or the latest that was submitted from here; UserError for none."""
    ours = read_records(dashboard.name)
    known = [job for job in list_jobs(dashboard) if job.id == (job_id or job.id)]
    if job_id is None:
        known = [job for job in known if job.id in ours]
    if not known:
        which = job_id or "that was submitted from here: give its id"
        raise UserError(f"{dashboard.target} knows no job {which}")
    return known[0]


def list_jobs(dashboard: Dashboard) -> list[Job]:
    """Return the jobs that rsray submitted, the latest first."""
    try:
        found = [info for info in dashboard.get("/api/jobs/") if info.get("submission_id")]
        found.sort(key=lambda info: info.get("start_time") or 0, reverse=True)
        return [
            Job(
                str(info["submission_id"]),
                str(info["status"]),
                info.get("driver_exit_code"),
                str(info["metadata"][OUT_THERE]),
                str(info["entrypoint"]),
            )
            for info in found
            if OUT_THERE in (info.get("metadata") or {})
        ]
    except (AttributeError, KeyError, TypeError) as problem:
        raise UserError(f"{dashboard.target} answers with something else than jobs") from problem


def follow_log(dashboard: Dashboard, job_id: str, show: Callable[[str], None]) -> Job:
    """Show a job's log until it ends and return the job; SilentClusterError when none is heard."""
    from aiohttp import ClientError

    seen = failures = 0

    async def show_rest() -> None:
        """Show what comes after what was seen, until the log ends or breaks off."""
        nonlocal seen, failures
        at = 0
        async for text in dashboard.job_client().tail_job_logs(job_id):
            fresh = text[max(0, seen - at) :]
            at += len(text)
            if fresh:
                # A job of days may break off often: only silence is given up.
                seen, failures = at, 0
                show(fresh)

    while True:
        try:
            asyncio.run(show_rest())
            job = find_job(dashboard, job_id)
            if job.status in ENDED_STATUSES:
                return job
        except (OSError, RuntimeError, UserError, ClientError) as problem:
            failures += 1
            if failures > MOST_RECONNECTS:
                raise SilentClusterError(f"{dashboard.target} is silent: {problem}") from problem
        time.sleep(RECONNECT_SECONDS if failures else 0.5)
