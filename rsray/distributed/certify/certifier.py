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
import pyarrow.compute as pc
import torch

from rsray.certification.engine.compiled import nominal_speed
from rsray.certification.engine.evaluation import Evaluation, choose_evaluation
from rsray.certification.folder import (
    PROGRESS,
    Claimed,
    claim,
    finish,
    recorded_evaluation,
)
from rsray.certification.plan import Done, Item, owed, share_out
from rsray.certification.running import Running
from rsray.certification.source import ClassifierSource
from rsray.certification.store import Selected
from rsray.config import CertifyConfig
from rsray.core.hardware import dedicate_process, resolve_precision
from rsray.data import ImageSplit
from rsray.distributed.capacity import Capacity, Fleet, capacity, plan_fleet
from rsray.distributed.certify.actor import STOP, CountingActor, task_table
from rsray.distributed.certify.stream import PATIENCE, stream
from rsray.distributed.session import extend_search_path, search_path, session
from rsray.errors import UserError
from rsray.storage import Place

log = logging.getLogger(__name__)
FLUSH_SECONDS, MOST_SECONDS = 4.0, 60.0  # between parts of counts: grows with the run
REPORT_SECONDS = 4.0  # between two writes of progress.json
ROUNDS = 3  # what was lost with an actor, and an image that failed once, is planned again
HOPELESS = 20  # images that failed where nothing was counted: then there is no use in going on
WINDOW, WINDOW_EACH = 2000, 200  # tasks that Ray Data holds at a time: at least, and per actor
MANY_ACTORS = 1000  # the driver carries no more
LOST = f"its draws were lost in {ROUNDS} attempts: the actor that made them died each time"
OnProgress = Callable[[dict[str, Any]], None]
SLOWER = 10  # times as slow as when the evaluation was chosen: still no reason to give up
EARLY = 10  # with at-radius, most images stop at a tenth of their draws or less


def certify(
    config: CertifyConfig,
    cert: Place,
    source: ClassifierSource,
    split: ImageSplit,
    selected: Selected,
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
        if evaluation is not None and evaluation.device == "cpu":
            gpus = 0.0
        fleet = plan_fleet(room, config.actors, gpus, config.most_actors)
        if evaluation is None:
            evaluation = _choose(config, source, split, len(selected.indices), fleet, room)
        elif evaluation.device == "cuda" and not fleet.gpus:
            raise UserError(
                f"{cert} counts on GPUs ({evaluation.device_name}), and none is to be used here: "
                "a CPU rounds otherwise; use another --out"
            )
        config = config.model_copy(update={"precision": evaluation.precision})
        claimed = claim(cert, config, evaluation)
        claimed.store.drop_damaged()
        return _Certification(claimed, source, split, selected, fleet, on_progress).run()


def _choose(
    config: CertifyConfig,
    source: ClassifierSource,
    split: ImageSplit,
    images: int,
    fleet: Fleet,
    room: Capacity,
) -> Evaluation:
    """Measure evaluations on a machine and with the resources of an actor."""
    import ray

    processors = room.most_gpus if fleet.gpus > 0 else room.most_cpus

    def measure(
        source: ClassifierSource,
        split: ImageSplit,
        config: CertifyConfig,
        threads: int,
        driver_path: tuple[str, ...],
    ) -> Evaluation:
        extend_search_path(driver_path)
        device = torch.device("cuda" if fleet.gpus > 0 else "cpu")
        dedicate_process(threads, gpus=fleet.gpus)
        model = source.build(split).to(device)
        precision = resolve_precision(config.precision, device)  # an actor's, not the driver's
        # By the cluster's size, not by the number of actors: that must not change the result.
        speed = nominal_speed(model, split.image_shape, precision, device.type)
        return choose_evaluation(
            model,
            split.image_shape,
            precision=precision,
            device=device,
            compile=config.compile,
            work_seconds=images * config.n / (speed * processors),
        )

    arguments = (source, split, config, fleet.threads, search_path())
    is_here = fleet.gpus == 0 and len(room.nodes) == 1 and not ray.util.client.ray.is_connected()
    if is_here:
        before = torch.get_num_threads()
        try:
            return measure(*arguments)
        finally:
            torch.set_num_threads(before)
    task = ray.remote(num_cpus=fleet.cpus, num_gpus=fleet.gpus)(measure)
    try:
        chosen: Evaluation = ray.get(task.remote(*arguments))
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, UserError):
            raise problem.cause from None
        raise
    return chosen


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
    ) -> None:
        import ray

        self.claimed, self.config, self.store = claimed, claimed.config, claimed.store
        self.source, self.split, self.selected, self.fleet = source, split, selected, fleet
        self.on_progress = on_progress
        self.failed: dict[int, str] = {}  # in this round, or for good
        self.devices: set[str] = set()  # that have counted
        self.waiting: list[pa.Table] = []
        self.part = ""  # their name, until it is known that they are written
        self.owed_draws = 0
        self.started = self.flushed = self.reported = time.perf_counter()
        self.weights = ray.put(source)
        self.running = Running(selected, claimed.demand)

    def run(self) -> dict[str, Any]:
        given_up: dict[int, str] = {}
        for attempt in range(ROUNDS):
            done = self._done()
            if attempt == 0:
                self.running.begin(done)
            draws = sum(item.draws(self.claimed.draws) for item in self._owed(done, given_up))
            if not draws:
                break
            if attempt:
                log.warning("drawing again what failed or was lost: %s draws", f"{draws:,}")
            earlier, self.failed = self.failed, dict(given_up)
            self._work(self._tasks(self._owed(done, given_up), draws, attempt))
            given_up = {image: why for image, why in self.failed.items() if image in earlier}
        else:
            done = self._done()
        lacking = {item.index for item in self._owed(done, {})}
        self.failed = {index: self.failed.get(index, LOST) for index in sorted(lacking)}
        self._report()
        seconds = self._snapshot()["seconds"]
        summary = finish(self.claimed, self.selected, seconds=seconds, failed=self.failed)
        if not self.config.at_radius:  # until now of the images that this start began
            same = {name: summary[name] for name in ("acr", "acr_standard_error")}
            self._report(**same, seconds=seconds, images_scored=summary["num_images"])
        return summary

    def _done(self) -> Done:
        return self.store.done(self.selected, self.claimed.draws, self.claimed.demand)

    def _owed(self, done: Done, but: dict[int, str]) -> Iterator[Item]:
        """Yield the images' ranges of blocks that are owed, one by one: a run can have millions."""
        items = owed(
            self.selected.indices,
            self.selected.labels,
            done,
            self.claimed.draws,
            sampling=self.config.sampling,
            blocks_per_item=self.claimed.draws.num_blocks,
        )
        return (item for item in items if item.index not in but)

    def _tasks(self, items: Iterator[Item], total: int, attempt: int) -> Iterator[list[Item]]:
        self.owed_draws = self.running.draws_made + total
        if attempt:  # an image that kills its actor then costs no other its draws
            return ([item] for item in items)
        config, speed = self.config, max(self.claimed.evaluation.draws_per_second, 1.0)
        return share_out(
            items,
            self.claimed.draws,
            total=total,
            actors=self.fleet.largest,
            # With at-radius an image's blocks are drawn one after the other until it is answered.
            draws_per_second=speed * EARLY if config.at_radius else speed,
            may_cut=not config.at_radius,
        )

    def _work(self, tasks: Iterator[list[Item]]) -> None:
        size = max(WINDOW, WINDOW_EACH * min(self.fleet.largest, MANY_ACTORS))
        try:
            while window := [task_table(items) for items in islice(tasks, size)]:
                for answer in stream(
                    window, CountingActor, self._job(), self.fleet, self._patience()
                ):
                    self._take(answer)
        finally:  # an interrupt keeps what has arrived
            self._flush()

    def _patience(self) -> float:
        """Return after how many seconds without an answer the run is taken to hang.

        An image that is not cut into tasks may take one actor hours on a slow network.
        """
        speed = max(self.claimed.evaluation.draws_per_second, 1.0)
        return max(PATIENCE, SLOWER * (self.config.n + self.config.n0) / speed)

    def _take(self, answer: pa.Table) -> None:
        is_failed = pc.is_valid(answer["error"])
        for row in answer.filter(is_failed).to_pylist():
            if row["stage"] == STOP:
                raise UserError(row["error"])
            self.failed[row["index"]] = row["error"]
            self._check_hope(row)
        counts = answer.filter(pc.invert(is_failed))
        if len(counts):
            self._look_at_device(counts["device"][0].as_py())
            counts = counts.drop_columns(["error", "device"])
            self.waiting.append(counts)
            self.running.add(counts.to_pylist())
        now = time.perf_counter()
        if now - self.flushed >= min(MOST_SECONDS, max(FLUSH_SECONDS, (now - self.started) / 100)):
            self._flush()
        if now - self.reported >= REPORT_SECONDS:
            self._report()
        self.on_progress(self._snapshot())

    def _look_at_device(self, name: str) -> None:
        """Say so, once for each, when a chip counts that the evaluation was not chosen on."""
        chosen_on = self.claimed.evaluation.device_name
        if name not in self.devices:
            self.devices.add(name)
            if chosen_on and name != chosen_on:
                log.warning(
                    "%s counts beside %s: chips round, and GPUs draw noise, each in their own way; "
                    "take nodes of one kind for certificates of one function",
                    name, chosen_on,
                )  # fmt: skip

    def _check_hope(self, row: dict[str, Any]) -> None:
        """Raise UserError when image after image fails and none was ever counted."""
        failed = len(self.failed)
        if failed >= HOPELESS and not (self.running.draws_made or self.running.images_done):
            raise UserError(
                f"no image can be certified: the first {failed} failed; image {row['index']}: "
                f"{row['error']}"
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
        return self.running.snapshot(self.owed_draws, self.claimed.spent_seconds)

    def _report(self, **known: Any) -> None:
        snapshot = {**self._snapshot(), **known}
        self.on_progress(snapshot)
        self.claimed.folder.write(PROGRESS, json.dumps(snapshot, indent=2).encode())
        self.reported = time.perf_counter()

    def _job(self) -> dict[str, Any]:
        return {
            "source": self.weights,
            "split": self.split,
            "rules": self.claimed.demand,
            "evaluation": self.claimed.evaluation,
            "sigma": self.config.sigma,
            "seed": self.config.seed,
            "threads": self.fleet.threads,
            "gpus": self.fleet.gpus,
            "search_path": search_path(),
        }
