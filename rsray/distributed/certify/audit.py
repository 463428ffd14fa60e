"""Blocks of a CERT drawn again by the certification fleet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from rsray.certification.audit import (
    Audit,
    Choice,
    choose_blocks,
    compare,
    image_differences,
    plan_of_blocks,
    write_audit,
)
from rsray.certification.counts.check import CheckedCounts
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import TABLE, Claimed
from rsray.certification.request import CertificationRequest
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.verify import verify
from rsray.certification.work_items import WorkItem, share_out
from rsray.config import AuditConfig
from rsray.distributed.capacity import Fleet, capacity, plan_fleet
from rsray.distributed.certify.actor import ActorSettings, CountingActor
from rsray.distributed.certify.answers import Answer, read_answers, task_table
from rsray.distributed.certify.choose_evaluation import choose_evaluation
from rsray.distributed.certify.stream import stream
from rsray.distributed.gpu_probe import check_gpus
from rsray.distributed.session import search_path, session
from rsray.errors import UserError
from rsray.results.certificates import read_rows

OnProgress = Callable[[dict[str, Any]], None]


def audit(
    claimed: Claimed,
    request: CertificationRequest,
    settings: AuditConfig,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda snapshot: None,
) -> Audit:
    """Return how stored blocks compare with the same blocks drawn again, and write audit.json.

    Nothing is drawn where the certificates are not what the counts say, or not of these images.
    UserError when blocks cannot be drawn again.
    """
    stored, verified = read_rows(claimed.folder / TABLE), verify(claimed.folder)
    if differences := [*verified.differences, *image_differences(request, stored)]:
        found = Audit.of_differences(verified, differences)
    else:
        counts = CheckedCounts(claimed.store, request.selected, claimed.plan)
        choice = choose_blocks(counts, list(stored.failed), settings)
        redrawn, evaluation = _draw(claimed, request, choice, settings, address, on_progress)
        found = compare(claimed, choice, redrawn, evaluation)
    write_audit(claimed.folder, found, claimed.config.model_digest)
    return found


def _draw(
    claimed: Claimed,
    request: CertificationRequest,
    choice: Choice,
    settings: AuditConfig,
    address: str | None,
    on_progress: OnProgress,
) -> tuple[list[tuple[pa.Table, str]], Evaluation]:
    """Return the chosen blocks drawn again, with the chip of each table, and the evaluation."""
    selected, failed = request.selected, dict[int, str]()
    labels = dict(zip(selected.indices.tolist(), selected.labels.tolist(), strict=True))
    work = _Work(choice.items(labels), plan_of_blocks(claimed.plan))
    redrawn: list[tuple[pa.Table, str]] = []
    with session(address):
        fleet, evaluation = _fleet(claimed, request, settings)
        for answer in _answers(request, work, fleet, evaluation):
            if answer.stop is not None:
                raise UserError(answer.stop)
            failed |= answer.failed
            redrawn.append((answer.counts, answer.device_name))
            on_progress(work.snapshot(sum(len(table) for table, _ in redrawn)))
    if lost := len(choice) - sum(len(table) for table, _ in redrawn):
        reasons = [f"image {index}: {why}" for index, why in failed.items()]
        why = reasons[0] if reasons else "the actors that made them died"
        raise UserError(f"{lost} of {len(choice)} blocks could not be drawn again ({why})")
    return redrawn, evaluation


@dataclass(frozen=True)
class _Work:
    items: list[WorkItem]
    plan: SamplingPlan
    started: float = field(default_factory=time.perf_counter)

    @property
    def draws(self) -> int:
        """The draws of all items."""
        return sum(item.draws(self.plan) for item in self.items)

    def snapshot(self, num_done: int) -> dict[str, Any]:
        """Return what a bar of a certification shows."""
        done = round(self.draws * num_done / len(self.items))
        speed = done / (time.perf_counter() - self.started)
        return {
            "images_done": num_done,
            "images": len(self.items),
            "draws": done,
            "draws_owed": self.draws,
            "draws_per_second": speed,
            "acr": None,
            "acr_standard_error": None,
            "seconds_left": (self.draws - done) / speed if speed else None,
        }


def _fleet(
    claimed: Claimed, request: CertificationRequest, settings: AuditConfig
) -> tuple[Fleet, Evaluation]:
    """Return the actors, and the evaluation of the CERT; for CPUs where there is no GPU here."""
    config, evaluation, room = request.config, claimed.evaluation, capacity()
    if settings.precision is not None:
        evaluation = replace(evaluation, precision=settings.precision)
    gpus = 0.0 if evaluation.device == "cpu" or not room.most_gpus else config.gpus_per_actor
    fleet = plan_fleet(room, config.actors, gpus, config.most_actors)
    check_gpus(fleet.gpus)
    if evaluation.device == "cuda" and not fleet.gpus:
        config = config.model_copy(update={"precision": evaluation.precision, "compile": "off"})
        evaluation = choose_evaluation(config, request.source, request.split, 1, fleet, room)
    return fleet, evaluation


def _answers(
    request: CertificationRequest, work: _Work, fleet: Fleet, evaluation: Evaluation
) -> Iterator[Answer]:
    import ray

    tasks = share_out(
        work.items,
        work.plan,
        total=work.draws,
        actors=fleet.largest,
        draws_per_second=max(evaluation.draws_per_second, 1.0),
        may_cut=False,
    )
    settings = ActorSettings(
        source=ray.put(request.source),
        split=request.split,
        plan=work.plan,
        evaluation=evaluation,
        noise=request.config.noise,
        earlier=None,
        threads=fleet.threads,
        gpus=fleet.gpus,
        search_path=search_path(),
    )
    tables = [task_table(items) for items in tasks]
    for table in stream(tables, CountingActor, settings, fleet):
        yield from read_answers(table)
