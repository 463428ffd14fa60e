"""Tables of counts gathered by image, in one pass: what is stored, what is owed, what it shows.

The driver gathers what arrives, for the figures that it shows, and at the end what is stored, for
the certificates: by the same code.
"""

# Shapes: N selected images, T estimation blocks per image, R rows, E (row, class) pairs.
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.certification.counts.store import CountStore, Selected
from rsray.certification.counts.tables import (
    ClassEntries,
    class_entries,
    column,
    counts_digest,
    is_reused,
    is_selection,
    rows_where,
)
from rsray.certification.sampling_plan import SamplingPlan
from rsray.core.bounds.randomized_clopper_pearson import uniform_numbers
from rsray.core.bounds.reused_counts import pairs_say_more
from rsray.core.evidence import Evidence, Reused
from rsray.errors import UserError

Ints = NDArray[np.int64]
REUSED = ("n", "top", "hits", "pairs", "lost", "lost_in_selection")


@dataclass(frozen=True)
class StoredDraws:
    """Which draws of N images are stored, and how many blocks they want."""

    selection_N: NDArray[np.bool_]
    estimation_NT: NDArray[np.bool_]
    # -1 where the selection is not stored.
    selected_class_N: Ints
    wanted_N: Ints
    # Whether an earlier network makes the estimation draws too.
    is_paired_N: NDArray[np.bool_]


class GatheredCounts:
    """The counts met so far, reduced to what a bound needs of each image.

    Memory does not grow with the number of classes. Only of images whose selected class is not yet
    known, or whose runner-up is not yet, are the counts of all classes held.
    """

    def __init__(self, selected: Selected, plan: SamplingPlan) -> None:
        """Start with nothing."""
        size = len(selected.indices)
        self.selected, self.plan, self.bound = selected, plan, plan.bound
        self.selection_N = np.zeros(size, dtype=bool)
        self.estimation_NT = np.zeros((size, plan.num_blocks), dtype=bool)
        self._class_N = np.full(size, -1, dtype=np.int64)
        self._n0_N, self._n_N, self._hits_N, self._runner_up_N = (
            np.zeros(size, dtype=np.int64) for _ in range(4)
        )
        self._selection_hits_N, self._selection_runner_up_N, self._sums_N, self._squares_N = (
            np.zeros(size) for _ in range(4)
        )
        # Of an earlier network, by the fields of Reused; and the draws of its most frequent class.
        self._reused = {name: np.zeros(size, dtype=np.int64) for name in REUSED}
        # The selected class's hits in each block, where the draws stop by them: four bytes a block.
        shape = self.estimation_NT.shape if plan.at_radius else (0, 0)
        self._hits_NT = np.full(shape, -1, dtype=np.int32)
        # Estimation rows that came before their image's selection: of images in flight.
        self._early: list[pa.Table] = []
        # Counts by class but the selected one, until all blocks of the image are met.
        self._others: dict[int, Counter[int]] = {}
        # Of all rows that were stored, whatever their order: see `counts_digest`.
        self.digest = 0

    def add(self, table: pa.Table) -> Ints:
        """Add rows, of blocks not met before; returns the positions of their images, ascending.

        Raises UserError for an image that is not selected.
        """
        position_R = self.selected.positions(column(table, "index"))
        is_selection_R = is_selection(table)
        selection_rows = rows_where(table, is_selection_R)
        self._add_selection(selection_rows, position_R[is_selection_R])
        estimation_rows = rows_where(table, ~is_selection_R)
        is_reused_R = is_reused(estimation_rows)
        position, block = position_R[~is_selection_R], column(estimation_rows, "block")
        self.estimation_NT[position[~is_reused_R], block[~is_reused_R]] = True
        draws = np.where(is_reused_R, 0, column(estimation_rows, "draws"))
        np.add.at(self._n_N, position, draws)
        if is_reused_R.any():
            self._add_reused(rows_where(estimation_rows, is_reused_R), position[is_reused_R])
        if len(selection_rows) and self._early:
            estimation_rows = pa.concat_tables([*self._early, estimation_rows])
            self._early = []
        self._add_estimation(estimation_rows)
        return np.unique(position_R)

    def _add_selection(self, table: pa.Table, position_R: Ints) -> None:
        if not len(table):
            return
        entries, counts_E = _sorted_by_value(table, "sums" if self.bound.is_soft else "counts")
        first_R = np.searchsorted(entries.row_E, np.arange(len(table)))
        self.selection_N[position_R] = True
        self._n0_N[position_R] = column(table, "draws")
        self._class_N[position_R] = entries.class_E[first_R]
        self._selection_hits_N[position_R] = counts_E[first_R]
        next_R = np.minimum(first_R + 1, len(counts_E) - 1)
        if self.plan.is_paired:
            lost_R = self._lost(class_entries(table), position_R)
            self._reused["lost_in_selection"][position_R] = lost_R
        has_next_R = (next_R > first_R) & (entries.row_E[next_R] == entries.row_E[first_R])
        self._selection_runner_up_N[position_R] = np.where(has_next_R, counts_E[next_R], 0.0)

    def _add_estimation(self, table: pa.Table) -> None:
        """Add the rows whose image's selected class is known; the others wait for it."""
        position_R = self.selected.positions(column(table, "index"))
        is_known_R = self._class_N[position_R] >= 0
        if not is_known_R.all():
            self._early.append(rows_where(table, ~is_known_R))
            table, position_R = rows_where(table, is_known_R), position_R[is_known_R]
        if not len(table):
            return
        if self.plan.is_paired:
            table, position_R = self._add_pairs(table, position_R)
        entries = class_entries(table)
        is_top_E = entries.class_E == self._class_N[position_R][entries.row_E]
        hits_R = _sum_by_row(entries, is_top_E, "counts", len(table)).astype(np.int64)
        np.add.at(self._hits_N, position_R, hits_R)
        if self.plan.at_radius:
            self._hits_NT[position_R, column(table, "block")] = hits_R
        if self.bound.is_soft:
            for total_N, name in ((self._sums_N, "sums"), (self._squares_N, "square_sums")):
                np.add.at(total_N, position_R, _sum_by_row(entries, is_top_E, name, len(table)))
        if self.bound.needs_runner_up:
            self._add_others(entries, ~is_top_E, position_R)

    def _add_reused(self, table: pa.Table, position_R: Ints) -> None:
        """Add an earlier network's draws, whatever class will be selected."""
        entries, counts_E = _sorted_by_value(table, "counts")
        first_R = np.searchsorted(entries.row_E, np.arange(len(table)))
        self._reused["n"][position_R] = column(table, "draws")
        self._reused["top"][position_R] = counts_E[first_R]

    def _add_pairs(self, table: pa.Table, position_R: Ints) -> tuple[pa.Table, Ints]:
        """Add what an earlier network says of the selected class; returns the other rows."""
        entries, is_reused_R = class_entries(table), is_reused(table)
        is_top_E = entries.class_E == self._class_N[position_R][entries.row_E]
        all_E = np.ones_like(is_top_E)
        hits_R, pairs_R = (
            _sum_by_row(entries, chosen_E, name, len(table)).astype(np.int64)
            for chosen_E, name in ((is_top_E, "counts"), (all_E, "before"))
        )
        np.add.at(self._reused["hits"], position_R, np.where(is_reused_R, hits_R, 0))
        np.add.at(self._reused["lost"], position_R, self._lost(entries, position_R))
        np.add.at(self._reused["pairs"], position_R, pairs_R)
        return rows_where(table, ~is_reused_R), position_R[~is_reused_R]

    def _lost(self, entries: ClassEntries, position_R: Ints) -> Ints:
        """Return how many draws [R] the earlier network alone gave the selected class."""
        is_top_E = entries.class_E == self._class_N[position_R][entries.row_E]
        before_R, kept_R = (
            _sum_by_row(entries, is_top_E, name, len(position_R)) for name in ("before", "kept")
        )
        return (before_R - kept_R).astype(np.int64)

    def _add_others(
        self, entries: ClassEntries, is_other_E: NDArray[np.bool_], position_R: Ints
    ) -> None:
        """Add the counts of other classes; of an image whose blocks are all met, keep the most."""
        image_E = position_R[entries.row_E[is_other_E]]
        triples = pa.table(
            {
                "image": image_E,
                "class": entries.class_E[is_other_E],
                "count": entries.values["counts"][is_other_E],
            }
        )
        summed = triples.group_by(["image", "class"]).aggregate([("count", "sum")])
        names = ("image", "class", "count_sum")
        for image, cls, count in zip(*(summed[name].to_pylist() for name in names), strict=True):
            self._others.setdefault(image, Counter())[cls] += count
        position = np.unique(position_R)
        for image in position[self.estimation_NT[position].all(axis=1)].tolist():
            self._runner_up_N[image] = _most(self._others.pop(image, Counter()))

    def wanted(self, position: Ints) -> Ints:
        """Return how many blocks each of some images wants, as far as is known."""
        wanted = self.plan.wanted_blocks(
            self.selected.labels[position],
            self._class_N[position],
            self._selection_hits_N[position],
        )
        if not self.plan.at_radius:
            return wanted
        return np.minimum(wanted, self.plan.blocks_until_answered(self._hits_NT[position]))

    def is_complete(self, position: Ints) -> NDArray[np.bool_]:
        """Tell of some images whether all draws are there that they want."""
        is_owed = np.arange(self.plan.num_blocks) < self.wanted(position)[:, None]
        has_blocks = (self.estimation_NT[position] | ~is_owed).all(axis=1)
        return np.asarray(self.selection_N[position] & has_blocks)

    def stored_draws(self) -> StoredDraws:
        """Return which draws are there, and which are wanted."""
        wanted_N = self.wanted(np.arange(len(self.selected.indices)))
        is_paired_N = np.zeros(len(wanted_N), dtype=bool)
        if self.plan.is_paired:
            plan, top_N, n_N = self.plan, self._reused["top"], self._reused["n"]
            is_paired_N = pairs_say_more(top_N, n_N, 0, plan.n0, plan.n, plan.alpha)
        return StoredDraws(
            self.selection_N, self.estimation_NT, self._class_N, wanted_N, is_paired_N
        )

    def evidence(self, position: Ints | None = None) -> Evidence:
        """Return what the counts of some images show (default: of all)."""
        at = np.arange(len(self.selected.indices)) if position is None else position
        runner_up = self._runner_up_N[at]
        for row, image in enumerate(at.tolist() if self._others else ()):
            if image in self._others:
                runner_up[row] = _most(self._others[image])
        uniform: float | NDArray[np.float64] = 1.0
        if self.bound.is_randomized:
            uniform = uniform_numbers(self.plan.seed, self.selected.indices[at].tolist())
        reused = None
        if self.plan.is_paired:
            reused = Reused(**{k: v[at] for k, v in self._reused.items() if k != "top"})
        return Evidence(
            selected_class=self._class_N[at],
            n0=self._n0_N[at],
            selection_hits=self._selection_hits_N[at],
            selection_runner_up=self._selection_runner_up_N[at],
            n=self._n_N[at],
            hits=self._hits_N[at],
            runner_up=runner_up,
            sums=self._sums_N[at],
            square_sums=self._squares_N[at],
            uniform=uniform,
            reused=reused,
        )


def gather(
    store: CountStore, selected: Selected, plan: SamplingPlan, *, drop_damaged: bool = False
) -> GatheredCounts:
    """Return the stored counts of the selected images; every part is read once.

    With `drop_damaged`, parts that are damaged are deleted: their draws are owed again. UserError
    where the images have other labels now: it is other data that was counted.
    """
    gathered = GatheredCounts(selected, plan)
    for table in store.blocks(selected, drop_damaged=drop_damaged):
        _check_blocks(store, plan, table)
        _check_labels(store, selected, table)
        gathered.add(table)
        gathered.digest = counts_digest(table, gathered.digest)
    return gathered


def _check_blocks(store: CountStore, plan: SamplingPlan, table: pa.Table) -> None:
    """Raise UserError for rows that the plan of the run knows nothing of."""
    if table.column_names != plan.counts_schema.names and (plan.bound.is_soft or plan.is_paired):
        raise UserError(f"{store.folder} lacks columns that the run's bound needs")
    is_over_R = ~is_selection(table) & (column(table, "block") >= plan.num_blocks)
    if is_over_R.any():
        raise UserError(
            f"{store.folder} holds block {column(table, 'block')[is_over_R][0]} of an image, and "
            f"the run has {plan.num_blocks}"
        )


def _check_labels(store: CountStore, selected: Selected, table: pa.Table) -> None:
    stored_R = column(table, "label")
    label_R = selected.labels[selected.positions(column(table, "index"))]
    for row in np.flatnonzero(stored_R != label_R)[:1]:
        raise UserError(
            f"{store.folder} holds image {table['index'][row].as_py()} with label "
            f"{stored_R[row]}, and the data set now says {label_R[row]}: give the data root "
            "that the run began with, or another --out"
        )


def _sorted_by_value(table: pa.Table, name: str) -> tuple[ClassEntries, NDArray[np.float64]]:
    """Return the entries of each row by falling value, the lowest class first of equals."""
    row_E, class_E, values = class_entries(table)
    order = np.lexsort((class_E, -values[name], row_E))
    value_E = values[name][order].astype(np.float64)
    return ClassEntries(row_E[order], class_E[order], {}), value_E


def _sum_by_row(
    entries: ClassEntries, chosen_E: NDArray[np.bool_], name: str, num_rows: int
) -> NDArray[np.float64]:
    values = entries.values[name][chosen_E]
    sums = np.bincount(entries.row_E[chosen_E], weights=values, minlength=num_rows)
    return np.asarray(sums, dtype=np.float64)


def _most(counts: Counter[int]) -> int:
    return max(counts.values(), default=0)
