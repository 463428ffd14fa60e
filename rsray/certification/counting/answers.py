"""What travels between the driver and a counting process: work items there, counts back.

Counts come back in the schema in which they are stored, as Arrow's own bytes; beside them stands
which images failed, and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from rsray.certification.work_items import WorkItem

_TASK_FIELDS: dict[str, pa.DataType] = {
    "index": pa.int64(),
    "label": pa.int32(),
    "first_block": pa.int32(),
    "num_blocks": pa.int32(),
    "selection": pa.bool_(),
    "selected_class": pa.int32(),
    "is_paired": pa.bool_(),
}
TASK = pa.schema(_TASK_FIELDS)
_ANSWER_FIELDS: dict[str, pa.DataType] = {
    "counts": pa.large_binary(),
    "device_name": pa.string(),
    "failed": pa.map_(pa.int64(), pa.string()),
    "stop": pa.string(),
}
ANSWER = pa.schema(_ANSWER_FIELDS)


@dataclass(frozen=True)
class Answer:
    """What a counting process made of a task."""

    counts: pa.Table
    device_name: str
    # The reason by the index of each image that failed.
    failed: dict[int, str] = field(default_factory=dict)
    # Why the run cannot go on, where it is the process's trouble and not an image's.
    stop: str | None = None

    def table(self) -> pa.Table:
        """Return the answer as a table of one row of ANSWER."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.counts.schema) as stream:
            stream.write_table(self.counts)
        row = (sink.getvalue().to_pybytes(), self.device_name, list(self.failed.items()), self.stop)
        return pa.Table.from_pylist([dict(zip(ANSWER.names, row, strict=True))], schema=ANSWER)


def read_answers(table: pa.Table) -> Iterator[Answer]:
    """Yield the answer in each row of a table of ANSWER."""
    for row in table.to_pylist():
        with pa.ipc.open_stream(row["counts"]) as stream:
            counts = stream.read_all()
        yield Answer(counts, row["device_name"], dict(row["failed"]), row["stop"])


def read_items(task: pa.Table) -> list[WorkItem]:
    """Return the items of a table of TASK."""
    return [WorkItem(**values) for values in task.to_pylist()]


def task_table(items: Sequence[WorkItem]) -> pa.Table:
    """Return the items as a table of TASK."""
    return pa.Table.from_pylist([asdict(item) for item in items], schema=TASK)
