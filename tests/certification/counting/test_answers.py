"""What travels between driver and actors arrives as it was sent."""

import numpy as np
import pyarrow as pa
import pytest

from rsray.certification.counting.answers import Answer, read_answers, task_table
from rsray.certification.counts.tables import counts_table
from rsray.certification.work_items import WorkItem
from rsray.storage.schemas import COUNTS, SOFT_COUNTS

COUNTS_TK = np.array([[0, 7, 3], [5, 0, 5]])


@pytest.mark.parametrize("soft", [False, True])
def test_counts_arrive_in_the_stored_schema(soft):
    sums = (COUNTS_TK / 2, COUNTS_TK / 4) if soft else ()
    counts = counts_table(4, 2, "estimation", [(0, 10), (3, 10)], COUNTS_TK, *sums)
    sent = [Answer(counts, "a chip"), Answer(counts.slice(0, 0), "a chip", {9: "no such file"})]
    sent.append(Answer(counts.slice(1), "another", {7: "NaN", 8: "zu groß"}, "out of memory"))
    got = list(read_answers(pa.concat_tables([answer.table() for answer in sent])))
    for mine, theirs in zip(sent, got, strict=True):
        assert theirs.counts.equals(mine.counts)
        assert theirs.counts.schema.equals(SOFT_COUNTS if soft else COUNTS, check_metadata=True)
        assert (theirs.device_name, theirs.failed, theirs.stop) == (
            mine.device_name, mine.failed, mine.stop,
        )  # fmt: skip


def test_items_arrive():
    items = [WorkItem(5, 1, 0, 3, True, -1), WorkItem(2**40, 0, 3, 2, False, 0)]
    assert [WorkItem(**row) for row in task_table(items).to_pylist()] == items
