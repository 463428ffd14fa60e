"""Where the Optuna study of a search is kept: a journal file, or segments on an object store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from rsray.storage import Place

STUDY_FILE, STUDY_FOLDER = "study.journal", "study"
# What one record may cost to store on an object store.
SEGMENT_BYTES = 64 * 1024


def study_storage(out: Place) -> JournalStorage:
    """Return the storage of the study in TUNE; every record is durable when Optuna returns.

    Call it while TUNE is locked: there is one writer.
    """
    if out.is_local:
        return JournalStorage(JournalFileBackend(str(out.local_path / STUDY_FILE)))
    return JournalStorage(SegmentedJournal(out / STUDY_FOLDER))


class SegmentedJournal(BaseJournalBackend):
    """Optuna's journal where files cannot be appended to: numbered segments of JSON lines.

    A record is added by writing the last segment again, whole; a full one is left as it is. So a
    segment that exists is complete, and a killed search loses no record that was made.
    """

    def __init__(self, folder: Place) -> None:
        """Read what an earlier start left; one request per segment."""
        self._folder = folder.make()
        self._segments = [folder.read(name) for name in folder.names(".jsonl")] or [b""]
        self._logs = [json.loads(line) for text in self._segments for line in text.splitlines()]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the records from this number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add records; they are stored when this returns, all of them or none."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        is_full = len(self._segments[-1]) >= SEGMENT_BYTES
        number = len(self._segments) - (not is_full)
        text = lines if is_full else self._segments[-1] + lines
        self._folder.write(f"{number:06d}.jsonl", text)
        self._segments[number:] = [text]
        self._logs += [json.loads(line) for line in lines.splitlines()]
