"""Run an rsray command as a job of a cluster: submit it, follow its log, find it again."""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rsray.cluster.dashboard import Dashboard
from rsray.cluster.job_records import JobRecord, keep_record, read_records
from rsray.cluster.packaging import CommandLine, copy_all, remote_out
from rsray.cluster.ssh import shell_path
from rsray.errors import UserError, printable
from rsray.storage import one_line

# A job's metadata say under this key where its results are on the cluster.
OUT_THERE = "rsray_out_there"
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


def submit_job(
    dashboard: Dashboard, line: CommandLine, out: str, say: Callable[[str], None]
) -> str:
    """Ship the package and submit the command, which writes to `out`; returns the job's id.

    A local `out` is written to the cluster's storage, and `fetch_results` brings it where this
    machine's record says. Raises UserError when what is to travel is missing or too large.
    """
    is_local = "://" not in out
    base = dashboard.layout.results or f"{dashboard.layout.root}/out"
    there = remote_out(out, base) if is_local else out
    here = str(Path(out).expanduser().absolute()) if is_local else None
    words = [*line.there(), "--out", there]
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
    wanted = [f"{name}={amount:g}" for name, amount in dashboard.layout.wait_for.items() if amount]
    wait = f"{python} -m rsray.cluster.wait_for_resources {shlex.join(wanted)} && "
    first = wait if wanted else ""
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
        return [_job_of(info) for info in found if OUT_THERE in (info.get("metadata") or {})]
    except (AttributeError, KeyError, TypeError) as problem:
        raise UserError(f"{dashboard.target} answers with something else than jobs") from problem


def _job_of(info: dict[str, Any]) -> Job:
    return Job(
        str(info["submission_id"]),
        str(info["status"]),
        info.get("driver_exit_code"),
        str(info["metadata"][OUT_THERE]),
        str(info["entrypoint"]),
    )


def follow_log(dashboard: Dashboard, job_id: str, show: Callable[[str], None]) -> Job:
    """Show a job's log until it ends and return the job; SilentClusterError when none is heard."""
    from aiohttp import ClientError

    log, failures = _ShownOnce(show), 0
    while True:
        try:
            asyncio.run(log.follow(dashboard, job_id))
            job = find_job(dashboard, job_id)
            if job.status in ENDED_STATUSES:
                return job
        except (OSError, RuntimeError, UserError, ClientError) as problem:
            failures += 1
            if failures > MOST_RECONNECTS:
                raise SilentClusterError(f"{dashboard.target} is silent: {problem}") from problem
        time.sleep(RECONNECT_SECONDS if failures else 0.5)


class _ShownOnce:
    """Shows a log once, however often it is read again from its start."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show, self.seen = show, 0

    async def follow(self, dashboard: Dashboard, job_id: str) -> None:
        """Show what comes after what was seen, until the log ends or breaks off."""
        at = 0
        async for text in dashboard.job_client().tail_job_logs(job_id):
            fresh = text[max(0, self.seen - at) :]
            at += len(text)
            if fresh:
                self.seen = at
                self.show(fresh)
