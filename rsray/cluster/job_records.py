"""Which jobs this machine has submitted, and where their results go: ~/.rsray/jobs.jsonl.

What a cluster says of a job decides nothing on this machine: results are written where this record
or the user's own --out says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rsray.errors import UserError


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
        handle = os.open(file, flags, 0o600)
        with os.fdopen(handle, "a") as stream:
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
    found = [record for line in lines if (record := _read_line(line)) is not None]
    return {record.job: record for record in found if record.cluster == cluster}


def _read_line(line: str) -> JobRecord | None:
    """Return the record in a line; None for a line that was cut off or is none of ours."""
    try:
        return JobRecord.model_validate(json.loads(line))
    except (ValueError, ValidationError, RecursionError):
        return None
