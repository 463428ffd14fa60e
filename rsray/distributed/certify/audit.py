"""Blocks of a CERT drawn again: on this machine alone, or by a fleet of Ray's actors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from rsray.certification.checks import audit as checking
from rsray.certification.checks.audit import Audit, Choice
from rsray.certification.checks.verify import verify
from rsray.certification.counting.certification_run import (
    GIVE_UP_AFTER_SILENT_SECONDS,
    Fleet,
    OnProgress,
)
from rsray.certification.counting.counter import CounterSettings
from rsray.certification.counting.own_processes import OwnProcesses
from rsray.certification.counts.check import CheckedCounts
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import TABLE, Claimed
from rsray.certification.request import CertificationRequest
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.work_items import share_out
from rsray.config import AuditConfig
from rsray.distributed.capacity import FleetSize, capacity, plan_fleet
from rsray.distributed.certify.choose_evaluation import choose_evaluation
from rsray.distributed.certify.one_machine import fleet_of_one_machine
from rsray.distributed.certify.ray_fleet import RayFleet
from rsray.distributed.gpu_probe import check_gpus
from rsray.distributed.session import session
from rsray.errors import UserError
from rsray.results.certificates import read_rows


def audit(
    claimed: Claimed,
    request: CertificationRequest,
    settings: AuditConfig,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda snapshot: None,
) -> Audit:
    """Return how stored blocks compare with the same blocks drawn again, and write audit.json.

    Nothing is drawn where the certificates are not what the counts say, or not of these images;
    counts that were changed without changing a certificate are looked for.
    UserError when blocks cannot be drawn again.
    """
    stored, verified = read_rows(claimed.folder / TABLE), verify(claimed.folder)
    differences = (*verified.differences, *checking.image_differences(request, stored))
    if not all(map(checking.is_of_counts_alone, differences)):
        found = Audit.of_differences(verified, differences)
    else:
        counts = CheckedCounts(claimed.store, request.selected, claimed.plan)
        choice = checking.choose_blocks(counts, list(stored.failed), settings)
        redrawn, evaluation = _draw(claimed, request, choice, settings, address, on_progress)
        found = checking.compare(claimed, choice, redrawn, evaluation)
        found = replace(found, differences=(*differences, *found.differences))
    checking.write_audit(claimed.folder, found, claimed.config.model_digest)
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
    items, plan = choice.items(labels), checking.plan_of_blocks(claimed)
    draws, started = sum(item.draws(plan) for item in items), time.perf_counter()
    redrawn: list[tuple[pa.Table, str]] = []
    evaluation = claimed.evaluation
    if settings.precision is not None:
        evaluation = replace(evaluation, precision=settings.precision)
    with _fleet_of(request, plan, draws, evaluation, address) as (fleet, evaluation):
        tasks = share_out(
            items,
            plan,
            total=draws,
            actors=fleet.largest,
            draws_per_second=max(evaluation.draws_per_second, 1.0),
            may_cut=False,
            longest=fleet.task_seconds,
        )
        for answer in fleet.answers(tasks, GIVE_UP_AFTER_SILENT_SECONDS):
            if answer.stop is not None:
                raise UserError(answer.stop)
            failed |= answer.failed
            redrawn.append((answer.counts, answer.device_name))
            num_done = sum(len(table) for table, _ in redrawn)
            on_progress(_snapshot(num_done, len(items), draws, time.perf_counter() - started))
    if lost := len(choice) - sum(len(table) for table, _ in redrawn):
        reasons = [f"image {index}: {why}" for index, why in failed.items()]
        why = reasons[0] if reasons else "the actors that made them died"
        raise UserError(f"{lost} of {len(choice)} blocks could not be drawn again ({why})")
    return redrawn, evaluation


def _snapshot(num_done: int, num_items: int, draws: int, seconds: float) -> dict[str, Any]:
    """Return what a bar of a certification shows."""
    done = round(draws * num_done / num_items)
    speed = done / seconds
    return {
        "images_done": num_done,
        "images": num_items,
        "draws": done,
        "draws_owed": draws,
        "draws_per_second": speed,
        "acr": None,
        "acr_standard_error": None,
        "seconds_left": (draws - done) / speed if speed else None,
    }


@contextmanager
def _fleet_of(
    request: CertificationRequest,
    plan: SamplingPlan,
    draws: int,
    evaluation: Evaluation,
    address: str | None,
) -> Iterator[tuple[Fleet, Evaluation]]:
    """Yield who draws, and the evaluation of the CERT: this machine alone unless Ray is named."""
    counter = CounterSettings(
        source=request.source,
        split=request.split,
        plan=plan,
        evaluation=evaluation,
        threads=1,
    )
    here = fleet_of_one_machine(request.config, address) if evaluation.device == "cpu" else None
    if here is not None:
        seconds = draws / max(evaluation.draws_per_second, 1.0)
        counter = replace(counter, threads=here.threads)
        yield OwnProcesses(counter, here.actors, seconds), evaluation
        return
    with session(address):
        fleet, evaluation = _actors(request, evaluation)
        counter = replace(counter, evaluation=evaluation, threads=fleet.threads, gpus=fleet.gpus)
        yield RayFleet(fleet, counter), evaluation


def _actors(request: CertificationRequest, evaluation: Evaluation) -> tuple[FleetSize, Evaluation]:
    """Return the actors, and the evaluation; for CPUs where there is no GPU here."""
    config, room = request.config, capacity()
    gpus = 0.0 if evaluation.device == "cpu" or not room.most_gpus else config.gpus_per_actor
    plan = plan_fleet(room, config.actors, gpus, config.most_actors)
    check_gpus(plan.gpus)
    if evaluation.device == "cuda" and not plan.gpus:
        config = config.model_copy(update={"precision": evaluation.precision, "compile": "off"})
        evaluation = choose_evaluation(request._replace(config=config), plan, room)
    return plan, evaluation
