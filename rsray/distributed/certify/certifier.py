"""Certify: by this machine's own processes where it does the whole job, else by Ray's actors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rsray.certification.counting.certification_run import CertificationRun, OnProgress
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim, recorded_evaluation
from rsray.certification.request import CertificationRequest
from rsray.core.hardware import available_cpus
from rsray.distributed.capacity import capacity, plan_fleet
from rsray.distributed.certify.choose_evaluation import (
    choose_evaluation,
    evaluation_of_this_machine,
)
from rsray.distributed.certify.one_machine import fleet_of_one_machine, own_processes
from rsray.distributed.certify.ray_fleet import RayFleet
from rsray.distributed.gpu_probe import check_gpus
from rsray.distributed.session import session
from rsray.errors import UserError
from rsray.progress import duration
from rsray.storage import Place

log = logging.getLogger(__name__)


def certify(
    request: CertificationRequest,
    cert: Place,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda snapshot: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Certify the selected images and return the summary; CERT is complete when this returns.

    Draws that CERT already holds are not made again. Images that fail, on a second try too, are
    left out and named under `failed` in the summary. Raises UserError when CERT belongs to another
    run.
    """
    # Another run's folder is refused before Ray starts
    recorded_evaluation(cert, request.config)
    cert.make()
    with cert.locked():
        evaluation = recorded_evaluation(cert, request.config)
        fleet = fleet_of_one_machine(request.config, address)
        if fleet is not None and (evaluation is None or evaluation.device == "cpu"):
            if evaluation is None:
                cores = float(available_cpus())
                evaluation = evaluation_of_this_machine(request, fleet, processors=cores)
            run = _begin(request, cert, evaluation, on_progress)
            processes, seconds = own_processes(run, fleet)
            if seconds:
                say(f"counts on this machine, without Ray: about {duration(max(1.0, seconds))}")
            return run.run(processes)
        with session(address):
            return _certify_on_ray(request, cert, evaluation, on_progress)


def _certify_on_ray(
    request: CertificationRequest,
    cert: Place,
    evaluation: Evaluation | None,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Run on Ray's actors, with the evaluation that CERT records if it has begun."""
    config, room = request.config, capacity()
    gpus = config.gpus_per_actor
    if evaluation is not None:
        own = evaluation.gpus if gpus is None else gpus
        gpus = 0.0 if evaluation.device == "cpu" else own
    fleet = plan_fleet(room, config.actors, gpus, config.most_actors)
    check_gpus(fleet.gpus)
    if evaluation is None:
        evaluation = choose_evaluation(request, fleet, room)
    elif evaluation.device == "cuda" and not fleet.gpus:
        raise UserError(
            f"{cert} counts on GPUs ({evaluation.device_name}), and none is to be used here: "
            "a CPU rounds otherwise; use another --out"
        )
    if evaluation.gpus not in (None, fleet.gpus):
        log.warning(
            "the run began with %g GPUs per actor and goes on with %g: logits may be rounded "
            "otherwise; take the same for certificates of one function",
            evaluation.gpus, fleet.gpus,
        )  # fmt: skip
    run = _begin(request, cert, evaluation, on_progress)
    return run.run(RayFleet(fleet, run.counter_settings(fleet.threads, fleet.gpus)))


def _begin(
    request: CertificationRequest, cert: Place, evaluation: Evaluation, on_progress: OnProgress
) -> CertificationRun:
    claimed = claim(cert, request.config, evaluation)
    earlier = request.earlier.claimed if request.earlier else None
    if earlier is not None and earlier.evaluation.device != evaluation.device:
        raise UserError(
            f"{earlier.folder} counted on {earlier.evaluation.device}, and {evaluation.device} is "
            "used here: its network would round otherwise; use the same, or certify without --reuse"
        )
    return CertificationRun(claimed, request, on_progress)
