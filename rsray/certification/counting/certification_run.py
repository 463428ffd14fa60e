"""A run of certification, as its driver sees it: plan, send, write, watch; whoever counts."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pyarrow as pa

from rsray.certification.counting.answers import Answer
from rsray.certification.counting.counter import CounterSettings
from rsray.certification.counts.gathering import GatheredCounts, StoredDraws, gather
from rsray.certification.folder import PROGRESS, Claimed, finish
from rsray.certification.progress import Progress
from rsray.certification.request import CertificationRequest
from rsray.certification.reuse import PART, check_repeated
from rsray.certification.work_items import WorkItem, owed_items, share_out
from rsray.errors import UserError

log = logging.getLogger(__name__)
# Between two parts of counts: a hundredth of the run so far, within these.
FLUSH_EVERY_SECONDS, LONGEST_FLUSH_SECONDS = 4.0, 60.0
REPORT_EVERY_SECONDS = 4.0
# What was lost with a process, and an image that failed once, is planned again.
NUM_ROUNDS = 3
# Where nothing was counted, there is then no use in going on.
GIVE_UP_AFTER_FAILURES = 20
# Without any answer for so long, something hangs.
GIVE_UP_AFTER_SILENT_SECONDS = 1800.0
# So many times as slow as when the evaluation was chosen is still no reason to give up.
TOLERATED_SLOWDOWN = 10
# With at-radius, most images stop at a tenth of their draws or less.
AT_RADIUS_SPEEDUP = 10
LOST = f"its draws were lost in {NUM_ROUNDS} attempts: the actor that made them died each time"
OnProgress = Callable[[dict[str, Any]], None]


class Fleet(Protocol):
    """Counting processes: of this machine, or actors of a cluster."""

    @property
    def largest(self) -> int:
        """How many processes there may be."""

    @property
    def task_seconds(self) -> float:
        """The longest that a task should take."""

    def answers(self, tasks: Iterator[list[WorkItem]], patience: float) -> Iterator[Answer]:
        """Yield an answer for each task, as they are ready; none for one whose process died.

        Raises UserError when nothing is answered for `patience` seconds.
        """


class CertificationRun:
    """The driver's side of one run."""

    def __init__(
        self, claimed: Claimed, request: CertificationRequest, on_progress: OnProgress
    ) -> None:
        """Read what earlier starts counted."""
        self.claimed, self.config, self.store = claimed, claimed.config, claimed.store
        self.plan = claimed.plan
        self.request, self.selected, self.earlier = request, request.selected, request.earlier
        self.on_progress = on_progress
        # In this round, or for good: the reason by the image's index.
        self.failed: dict[int, str] = {}
        self.devices_seen: set[str] = set()
        # Tables not yet written, and the name of their part until it is known to be written.
        self.waiting: list[pa.Table] = []
        self.part = ""
        self.owed_draws = 0
        if self.earlier is not None:
            num_pairs = self.plan.num_blocks
            self.store.append(self.earlier.reused_rows(self.selected, num_pairs), PART)
            self.earlier_blocks = self.earlier.stored_blocks(self.selected, num_pairs)
        # Damaged parts are dropped here, before anything is planned by them.
        self.progress = Progress(self._gather(drop_damaged=True))
        self._start()

    def _start(self) -> None:
        """Let the time run from now on: a fleet may take a while to come."""
        self.started = self.flushed = self.reported = time.perf_counter()
        self.progress.start()

    def counter_settings(self, threads: int, gpus: float = 0.0) -> CounterSettings:
        """Return what a counting process must know."""
        earlier = None
        if self.earlier is not None and self.earlier.source is not None:
            earlier = self.earlier.source, self.earlier.claimed.evaluation
        return CounterSettings(
            source=self.request.source,
            split=self.request.split,
            plan=self.plan,
            evaluation=self.claimed.evaluation,
            threads=threads,
            gpus=gpus,
            earlier=earlier,
        )

    def draws_left(self) -> int:
        """Return how many draws are owed, at most, as the run begins."""
        stored = self.progress.gathered.stored_draws()
        return sum(item.draws(self.plan) for item in self._owed(stored, {}))

    def run(self, fleet: Fleet) -> dict[str, Any]:
        """Draw what is owed, and again what was lost; the counts are read once at the end."""
        self._start()
        gathered, given_up = self.progress.gathered, dict[int, str]()
        for attempt in range(NUM_ROUNDS):
            if attempt:
                gathered = self._gather()
            stored = gathered.stored_draws()
            draws = sum(item.draws(self.plan) for item in self._owed(stored, given_up))
            if not draws:
                break
            if attempt:
                log.warning("drawing again what failed or was lost: %s draws", f"{draws:,}")
            earlier, self.failed = self.failed, dict(given_up)
            owed = self._owed(stored, given_up)
            tasks = self._tasks(owed, draws, fleet, is_first=not attempt)
            try:
                for answer in fleet.answers(tasks, self._patience()):
                    self._take(answer)
            finally:  # an interrupt keeps what has arrived
                self._flush()
            given_up = {image: why for image, why in self.failed.items() if image in earlier}
        else:
            gathered = self._gather()
        return self._finish(gathered)

    def _finish(self, gathered: GatheredCounts) -> dict[str, Any]:
        lacking = {item.index for item in self._owed(gathered.stored_draws(), {})}
        self.failed = {index: self.failed.get(index, LOST) for index in sorted(lacking)}
        self._report()
        seconds = self._snapshot()["seconds"]
        summary = finish(self.claimed, gathered, seconds=seconds, failed=self.failed)
        # Until now of the images that this start began
        if not self.config.at_radius:
            same = {name: summary[name] for name in ("acr", "acr_standard_error")}
            self._report(**same, seconds=seconds, images_scored=summary["num_images"])
        return summary

    def _gather(self, *, drop_damaged: bool = False) -> GatheredCounts:
        return gather(self.store, self.selected, self.plan, drop_damaged=drop_damaged)

    def _owed(self, stored: StoredDraws, but: dict[int, str]) -> Iterator[WorkItem]:
        """Yield the images' ranges of blocks that are owed, one by one: a run can have millions."""
        items = owed_items(self.selected, stored, blocks_per_item=self.plan.num_blocks)
        return (item for item in items if item.index not in but)

    def _tasks(
        self, items: Iterator[WorkItem], total: int, fleet: Fleet, *, is_first: bool
    ) -> Iterator[list[WorkItem]]:
        self.owed_draws = self.progress.draws_made + total
        # An image that kills its process then costs no other its draws
        if not is_first:
            return ([item] for item in items)
        config, speed = self.config, max(self.claimed.evaluation.draws_per_second, 1.0)
        return share_out(
            items,
            self.plan,
            total=total,
            actors=fleet.largest,
            # With at-radius an image's blocks are drawn one after the other until it is answered.
            draws_per_second=speed * AT_RADIUS_SPEEDUP if config.at_radius else speed,
            # Another kind of GPU would draw another selection for another part of an image.
            may_cut=self.plan.is_same_for_all
            or (not config.at_radius and self.claimed.evaluation.device == "cpu"),
            longest=fleet.task_seconds,
        )

    def _patience(self) -> float:
        """Return after how many seconds without an answer the run is taken to hang.

        An image that is not cut into tasks may take one process hours on a slow network.
        """
        speed = max(self.claimed.evaluation.draws_per_second, 1.0)
        slowest = TOLERATED_SLOWDOWN * (self.config.n + self.config.n0) / speed
        return max(GIVE_UP_AFTER_SILENT_SECONDS, slowest)

    def _take(self, answer: Answer) -> None:
        if answer.stop is not None:
            raise UserError(answer.stop)
        for index, reason in answer.failed.items():
            self.failed[index] = reason
            self._check_hope(index, reason)
        if len(answer.counts):
            if self.earlier is not None:
                check_repeated(answer.counts, self.earlier_blocks, self.earlier.claimed.folder)
            self._look_at_device(answer.device_name)
            self.waiting.append(answer.counts)
            self.progress.add(answer.counts)
        now = time.perf_counter()
        every = max(FLUSH_EVERY_SECONDS, (now - self.started) / 100)
        if now - self.flushed >= min(LONGEST_FLUSH_SECONDS, every):
            self._flush()
        if now - self.reported >= REPORT_EVERY_SECONDS:
            self._report()
        self.on_progress(self._snapshot())

    def _look_at_device(self, name: str) -> None:
        """Say so, once for each, when a chip counts that the evaluation was not chosen on."""
        chosen_on = self.claimed.evaluation.device_name
        if name not in self.devices_seen:
            self.devices_seen.add(name)
            if chosen_on and name != chosen_on:
                log.warning(
                    "%s counts beside %s: chips round, and GPUs draw noise, each in their own way; "
                    "take nodes of one kind for certificates of one function",
                    name, chosen_on,
                )  # fmt: skip

    def _check_hope(self, index: int, reason: str) -> None:
        """Raise UserError when image after image fails and none was ever counted."""
        is_any_counted = self.progress.draws_made or self.progress.images_done
        if len(self.failed) >= GIVE_UP_AFTER_FAILURES and not is_any_counted:
            raise UserError(
                f"no image can be certified: the first {len(self.failed)} failed; image {index}: "
                f"{reason}"
            )

    def _flush(self) -> None:
        if self.waiting:
            # Done again after an interrupt, under the same name: no block is stored twice.
            self.part = self.part or self.store.new_name()
            self.store.append(pa.concat_tables(self.waiting), self.part)
            self.waiting, self.part = [], ""
            self._report()
        self.flushed = time.perf_counter()

    def _snapshot(self) -> dict[str, Any]:
        return self.progress.snapshot(self.owed_draws, self.claimed.spent_seconds)

    def _report(self, **known: Any) -> None:
        snapshot = {**self._snapshot(), **known}
        self.on_progress(snapshot)
        self.claimed.folder.write(PROGRESS, json.dumps(snapshot, indent=2).encode())
        self.reported = time.perf_counter()
