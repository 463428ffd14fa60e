"""The certification fleet: work items through Ray Data to actors, counts back to one writer.

Items travel without pixels: an actor reads its images where it counts them, so nothing but a few
integers per image moves through the cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rsray.certification.compiled import nominal_speed
from rsray.certification.evaluation import Evaluation, choose_evaluation
from rsray.certification.folder import PROGRESS, Claimed, claim, finish, recorded_evaluation
from rsray.certification.plan import Item, owed, share_out
from rsray.certification.running import Running
from rsray.certification.source import ClassifierSource
from rsray.certification.store import Selected
from rsray.config import CertifyConfig
from rsray.core.hardware import available_cpus
from rsray.data import ImageSplit
from rsray.fleet.actor import CountingActor, task_table
from rsray.fleet.capacity import Capacity, Fleet, capacity, plan_fleet
from rsray.fleet.ingest import stream
from rsray.fleet.session import search_path, session
from rsray.storage import Folder

FLUSH_SECONDS = 4.0  # between parts of counts; grows with the run
MAX_ROUNDS = 3  # a block lost with its actor is planned again
OnProgress = Callable[[dict[str, Any]], None]
EARLY = 10  # with at-radius, most images stop at a tenth of their draws or less


def certify(
    config: CertifyConfig,
    cert: Folder,
    source: ClassifierSource,
    split: ImageSplit,
    selected: Selected,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda snapshot: None,
) -> dict[str, Any]:
    """Certify the selected images and return the summary; CERT is complete when this returns.

    Draws that CERT already holds are not made again. Images that fail are left out and named
    under `failed` in the summary. Raises UserError when CERT belongs to another run.
    """
    evaluation = recorded_evaluation(cert, config)
    cert.make()
    with cert.locked(), session(address):
        room = capacity()
        fleet = plan_fleet(room, config.actors, config.gpus_per_actor, config.most_actors)
        evaluation = evaluation or _choose(
            config, source, split, len(selected.indices), fleet, room
        )
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
        source: ClassifierSource, split: ImageSplit, config: CertifyConfig, threads: int
    ) -> Evaluation:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if fleet.gpus > 0 else "cpu")
        model = source.build(split).to(device)
        # By the cluster's size, not by the number of actors: that must not change the result.
        speed = nominal_speed(model, split.image_shape, config.precision, device.type)
        return choose_evaluation(
            model,
            split.image_shape,
            precision=config.precision,
            device=device,
            compile=config.compile,
            work_seconds=images * config.n / (speed * processors),
        )

    arguments = (source, split, config, fleet.threads)
    is_here = fleet.gpus == 0 and room.most_cpus == available_cpus()
    if is_here:
        before = torch.get_num_threads()
        try:
            return measure(*arguments)
        finally:
            torch.set_num_threads(before)
    task = ray.remote(num_cpus=fleet.cpus, num_gpus=fleet.gpus)(measure)
    chosen: Evaluation = ray.get(task.remote(*arguments))
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
        self.failed: dict[int, str] = {}
        self.waiting: list[pa.Table] = []
        self.owed_draws = 0
        self.started = self.flushed = time.perf_counter()
        self.weights = ray.put(source)
        self.running = Running(selected, claimed.demand)

    def run(self) -> dict[str, Any]:
        for attempt in range(MAX_ROUNDS):
            done = self.store.done(self.selected, self.claimed.draws, self.claimed.demand)
            if attempt == 0:
                self.running.begin(done)
            tasks = self._tasks(done)
            if not tasks:
                break
            self._work(tasks)
        self._report()
        seconds = self.claimed.spent_seconds + time.perf_counter() - self.started
        return finish(self.claimed, self.selected, seconds=seconds, failed=self.failed)

    def _tasks(self, done: Any) -> list[list[Item]]:
        config, draws = self.config, self.claimed.draws
        speed = max(self.claimed.evaluation.draws_per_second, 1.0)
        items = [
            item
            for item in owed(
                self.selected.indices,
                self.selected.labels,
                done,
                draws,
                sampling=config.sampling,
                blocks_per_item=draws.num_blocks,
            )
            if item.index not in self.failed
        ]
        self.owed_draws = self.running.draws_made + sum(item.draws(draws) for item in items)
        return share_out(
            items,
            draws,
            actors=self.fleet.largest,
            # With at-radius an image's blocks are drawn one after the other until it is answered.
            draws_per_second=speed * EARLY if config.at_radius else speed,
            may_cut=not config.at_radius,
        )

    def _work(self, tasks: list[list[Item]]) -> None:
        try:
            for answer in stream(
                [task_table(items) for items in tasks], CountingActor, self._job(), self.fleet
            ):
                self._take(answer)
        finally:  # an interrupt keeps what has arrived
            self._flush()

    def _take(self, answer: pa.Table) -> None:
        is_failed = pc.is_valid(answer["error"])
        for row in answer.filter(is_failed).to_pylist():
            self.failed[row["index"]] = row["error"]
        counts = answer.filter(pc.invert(is_failed)).drop_columns("error")
        if len(counts):
            self.waiting.append(counts)
            self.running.add(counts.to_pylist())
        elapsed = time.perf_counter() - self.started
        if time.perf_counter() - self.flushed >= max(FLUSH_SECONDS, elapsed / 100):
            self._flush()
        self.on_progress(self._snapshot())

    def _flush(self) -> None:
        if self.waiting:
            self.store.append(pa.concat_tables(self.waiting))
            self.waiting = []
            self._report()
        self.flushed = time.perf_counter()

    def _snapshot(self) -> dict[str, Any]:
        return self.running.snapshot(self.owed_draws, self.claimed.spent_seconds)

    def _report(self) -> None:
        snapshot = self._snapshot()
        self.on_progress(snapshot)
        self.claimed.folder.write(PROGRESS, json.dumps(snapshot, indent=2).encode())

    def _job(self) -> dict[str, Any]:
        return {
            "source": self.weights,
            "split": self.split,
            "rules": self.claimed.demand,
            "evaluation": self.claimed.evaluation,
            "sigma": self.config.sigma,
            "seed": self.config.seed,
            "threads": self.fleet.threads,
            "search_path": search_path(),
        }


def selected_images(config: CertifyConfig, split: ImageSplit) -> Selected:
    """Return the images that --start, --skip and --limit select."""
    from rsray.data import selected

    indices = selected(len(split), config.start, config.skip, config.limit)
    return Selected(indices, np.asarray(split.labels)[indices])
