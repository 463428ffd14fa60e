"""What an item yields."""

from dataclasses import replace

import numpy as np
import pytest

from rsray.certification.counts.item import count_item
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.work_items import WorkItem
from rsray.storage.schemas import COUNTS

PLAN = SamplingPlan(n0=10, n=130, block_size=40)
IMAGE = np.zeros((1, 2, 2), np.uint8)


class FakeSampler:
    """Every draw falls in `selected` at selection, in class 2 at estimation; calls are noted."""

    def __init__(self, selected):
        self.selected, self.calls = selected, []

    def counts(self, image, index, stage, blocks, *, selection_draws=0):
        if selection_draws:
            self.calls.append((index, f"selection and {stage}", list(blocks)))
            first = [[selection_draws * (k == self.selected) for k in range(4)]]
            return np.concatenate([first, self._counts(stage, blocks)])
        self.calls.append((index, stage, list(blocks)))
        return self._counts(stage, blocks)

    def _counts(self, stage, blocks):
        counts = np.zeros((len(blocks), 4), dtype=np.int64)
        counts[:, self.selected if stage == "selection" else 2] = [draws for _, draws in blocks]
        return counts


BOTH = "selection and estimation"
SELECTION = (7, "selection", [(0, 10)])


def estimation(*blocks, stage="estimation"):
    return (7, stage, [(block, PLAN.block_draws(block)) for block in blocks])


@pytest.mark.parametrize(
    ("sampling", "top", "item", "calls", "stored"),
    [
        # index 7, label 1: (first block, number, stores selection, known class)
        # Nothing depends on the selection: both stages at once.
        ("fixed", 1, (0, 2, True, -1), [estimation(0, 1, stage=BOTH)], "SEE"),
        ("fixed", 3, (0, 2, True, -1), [estimation(0, 1, stage=BOTH)], "SEE"),
        ("fixed", 1, (2, 2, False, -1), [estimation(2, 3)], "EE"),  # needs no selection
        ("fixed", 1, (2, 2, False, 1), [estimation(2, 3)], "EE"),
        ("fixed", 1, (0, 0, True, -1), [SELECTION], "S"),
        ("skip", 1, (0, 2, True, -1), [SELECTION, estimation(0, 1)], "SEE"),
        ("skip", 3, (0, 2, True, -1), [SELECTION], "S"),
        ("skip", 3, (2, 2, False, -1), [SELECTION], ""),  # another item stores the selection
        ("skip", 1, (2, 2, False, -1), [SELECTION, estimation(2, 3)], "EE"),
        ("skip", 1, (2, 2, False, 1), [estimation(2, 3)], "EE"),  # known from the store
        ("skip", 1, (0, 0, True, -1), [SELECTION], "S"),
    ],
)
def test_count_item(sampling, top, item, calls, stored):
    first, number, stores_selection, known = item
    sampler = FakeSampler(top)
    table = count_item(
        sampler,
        IMAGE,
        WorkItem(7, 1, first, number, stores_selection, known),
        replace(PLAN, sampling=sampling),
    )
    assert table.schema.equals(COUNTS, check_metadata=True)
    rows = table.to_pylist()
    assert sampler.calls == calls
    assert "".join(row["stage"][0].upper() for row in rows) == stored
    assert {(row["index"], row["label"]) for row in rows} <= {(7, 1)}
    for row in rows:
        assert sum(row["counts"]) == row["draws"]
        assert row["classes"] == [top if row["stage"] == "selection" else 2]
    blocks = [row["block"] for row in rows if row["stage"] == "estimation"]
    assert blocks == list(range(first, first + len(blocks)))


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_at_radius_an_item_that_begins_later_stores_the_rest(small_run, first):
    """Several blocks are drawn at once; none before the item's first or after the answer is kept."""
    run = small_run(at_radius=(0.05, 0.2), n=400, block_size=10)
    items = run.items(run.claimed.plan.num_blocks)
    later = [
        replace(item, first_block=first, num_blocks=item.num_blocks - first, selection=False)
        for item in items
    ]
    lengths = set()
    for whole, rest in zip(run.tables(items), run.tables(later), strict=True):
        rows = [row for row in whole.to_pylist() if row["stage"] == "estimation"]
        lengths.add(len(rows))
        assert [row["block"] for row in rows] == list(range(len(rows)))
        assert rest.to_pylist() == rows[first:]
    assert len(lengths) > 3
