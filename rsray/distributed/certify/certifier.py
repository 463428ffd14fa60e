"""The certification fleet: work items through Ray Data to actors, counts back to one writer.

Items travel without pixels: an actor reads its images where it counts them, so nothing but a few
integers per image moves through the cluster.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from rsray.certification.counts.gathering import GatheredCounts, StoredDraws, gather
from rsray.certification.counts.store import Selected
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import (
    PROGRESS,
    Claimed,
    claim,
    finish,
    recorded_evaluation,
)
from rsray.certification.progress import Progress
from rsray.certification.reuse import EarlierCertification, check_repeated
from rsray.certification.source import ClassifierSource
from rsray.certification.work_items import WorkItem, owed_items, share_out
from rsray.config import CertifyConfig
from rsray.data import ImageSplit
from rsray.distributed.capacity import Fleet, capacity, plan_fleet
from rsray.distributed.certify.actor import ActorSettings, CountingActor
from rsray.distributed.certify.answers import Answer, read_answers, task_table
from rsray.distributed.certify.choose_evaluation import choose_evaluation
from rsray.distributed.certify.stream import GIVE_UP_AFTER_SILENT_SECONDS, stream
from rsray.distributed.gpu_probe import check_gpus
from rsray.distributed.session import search_path, session
from rsray.errors import UserError
from rsray.storage import Place

log = logging.getLogger(__name__)
# Between two parts of counts: a hundredth of the run so far, within these.
FLUSH_EVERY_SECONDS, LONGEST_FLUSH_SECONDS = 4.0, 60.0
REPORT_EVERY_SECONDS = 4.0
# What was lost with an actor, and an image that failed once, is planned again.
NUM_ROUNDS = 3
# Where nothing was counted, there is then no use in going on.
GIVE_UP_AFTER_FAILURES = 20
# Tasks that Ray Data holds at a time; the driver carries no more actors than so many.
TASKS_AT_ONCE, TASKS_AT_ONCE_PER_ACTOR, MOST_ACTORS_CARRIED = 2000, 200, 1000
# So many times as slow as when the evaluation was chosen is still no reason to give up.
TOLERATED_SLOWDOWN = 10
# With at-radius, most images stop at a tenth of their draws or less.
AT_RADIUS_SPEEDUP = 10
LOST = f"its draws were lost in {NUM_ROUNDS} attempts: the actor that made them died each time"
OnProgress = Callable[[dict[str, Any]], None]


def certify(
    config: CertifyConfig,
    cert: Place,
    source: ClassifierSource,
    split: ImageSplit,
    selected: Selected,
    earlier: EarlierCertification | None = None,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda snapshot: None,
) -> dict[str, Any]:
    """Certify the selected images and return the summary; CERT is complete when this returns.

    Draws that CERT already holds are not made again. Images that fail, on a second try too, are
    left out and named under `failed` in the summary. Raises UserError when CERT belongs to another
    run.
    """
    recorded_evaluation(cert, config)  # another run's folder is refused before Ray starts
    cert.make()
    with cert.locked(), session(address):
        evaluation = recorded_evaluation(cert, config)
        room, gpus = capacity(), config.gpus_per_actor
        if evaluation is not None:
            own = evaluation.gpus if gpus is None else gpus
            gpus = 0.0 if evaluation.device == "cpu" else own
        fleet = plan_fleet(room, config.actors, gpus, config.most_actors)
        check_gpus(fleet.gpus)
        if evaluation is None:
            evaluation = choose_evaluation(
                config, source, split, len(selected.indices), fleet, room
            )
        elif evaluation.device == "cuda" and not fleet.gpus:
            raise UserError(
                f"{cert} counts on GPUs ({evaluation.device_name}), and none is to be used here: "
                "a CPU rounds otherwise; use another --out"
            )
        _say_if_other_share(evaluation, fleet)
        config = config.model_copy(update={"precision": evaluation.precision})
        claimed = claim(cert, config, evaluation)
        if earlier is not None:
            _check_device(earlier, evaluation)
        return _Certification(claimed, source, split, selected, fleet, on_progress, earlier).run()


def _say_if_other_share(evaluation: Evaluation, fleet: Fleet) -> None:
    if evaluation.gpus is not None and evaluation.gpus != fleet.gpus:
        log.warning(
            "the run began with %g GPUs per actor and goes on with %g: logits may be rounded "
            "otherwise; take the same for certificates of one function",
            evaluation.gpus, fleet.gpus,
        )  # fmt: skip


def _check_device(earlier: EarlierCertification, evaluation: Evaluation) -> None:
    if earlier.evaluation.device != evaluation.device:
        raise UserError(
            f"{earlier.cert} counted on {earlier.evaluation.device}, and {evaluation.device} is "
            "used here: its network would round otherwise; use the same, or certify without --reuse"
        )


class _Certification:
    """The driver's side of one run: plan, send, write, watch."""

    def __init__(
        self,
        claimed: Claimed,
        source: ClassifierSource,
        split: ImageSplit,
        selected: Selected,
        fleet: Fleet,
        on_progress: OnProgress,
        earlier: EarlierCertification | None,
    ) -> None:
        import ray

        self.claimed, self.config, self.store = claimed, claimed.config, claimed.store
        self.plan = claimed.plan
        self.source, self.split, self.selected, self.fleet = source, split, selected, fleet
        self.on_progress = on_progress
        # In this round, or for good: the reason by the image's index.
        self.failed: dict[int, str] = {}
        self.devices_seen: set[str] = set()
        # Tables not yet written, and the name of their part until it is known to be written.
        self.waiting: list[pa.Table] = []
        self.part = ""
        self.owed_draws = 0
        self.started = self.flushed = self.reported = time.perf_counter()
        self.weights = ray.put(source)
        self.earlier = earlier
        if earlier is not None:
            self.earlier_weights = ray.put(earlier.source)
            earlier.store_in(self.store, selected, self.plan.num_blocks)
            self.earlier_blocks = earlier.stored_blocks(selected, self.plan.num_blocks)
        # Damaged parts are dropped here, before anything is planned by them.
        self.progress = Progress(self._gather(drop_damaged=True))

    def run(self) -> dict[str, Any]:
        """Draw what is owed, and again what was lost; the counts are read once at the end."""
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
            self._work(self._tasks(self._owed(stored, given_up), draws, attempt))
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
        if not self.config.at_radius:  # until now of the images that this start began
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
        self, items: Iterator[WorkItem], total: int, attempt: int
    ) -> Iterator[list[WorkItem]]:
        self.owed_draws = self.progress.draws_made + total
        if attempt:  # an image that kills its actor then costs no other its draws
            return ([item] for item in items)
        config, speed = self.config, max(self.claimed.evaluation.draws_per_second, 1.0)
        return share_out(
            items,
            self.plan,
            total=total,
            actors=self.fleet.largest,
            # With at-radius an image's blocks are drawn one after the other until it is answered.
            draws_per_second=speed * AT_RADIUS_SPEEDUP if config.at_radius else speed,
            may_cut=not config.at_radius,
        )

    def _work(self, tasks: Iterator[list[WorkItem]]) -> None:
        actors = min(self.fleet.largest, MOST_ACTORS_CARRIED)
        size = max(TASKS_AT_ONCE, TASKS_AT_ONCE_PER_ACTOR * actors)
        try:
            while window := [task_table(items) for items in islice(tasks, size)]:
                for table in stream(
                    window, CountingActor, self._settings(), self.fleet, self._patience()
                ):
                    for answer in read_answers(table):
                        self._take(answer)
        finally:  # an interrupt keeps what has arrived
            self._flush()

    def _patience(self) -> float:
        """Return after how many seconds without an answer the run is taken to hang.

        An image that is not cut into tasks may take one actor hours on a slow network.
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
                check_repeated(answer.counts, self.earlier_blocks, self.earlier.cert)
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

    def _settings(self) -> ActorSettings:
        return ActorSettings(
            source=self.weights,
            split=self.split,
            plan=self.plan,
            evaluation=self.claimed.evaluation,
            noise=self.config.noise,
            earlier=self.earlier and (self.earlier_weights, self.earlier.evaluation),
            threads=self.fleet.threads,
            gpus=self.fleet.gpus,
            search_path=search_path(),
        )
