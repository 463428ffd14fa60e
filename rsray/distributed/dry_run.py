"""What a command would run, and where, in lines: nothing is started or written, no Ray either."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from math import ceil

import torch

from rsray.certification.cost import measure_plan
from rsray.certification.folder import recorded_evaluation
from rsray.certification.request import CertificationRequest
from rsray.config import CertifyConfig, PlanConfig
from rsray.core.gpus import usable_gpus
from rsray.core.hardware import (
    available_cpus,
    default_device,
    device_name,
    fastest_precision,
    resolve_precision,
)
from rsray.distributed.capacity import Capacity, FleetSize, check_room
from rsray.distributed.certify.one_machine import fleet_of_one_machine, is_cluster_open
from rsray.distributed.search.forecast import plan_search
from rsray.distributed.search.request import SearchRequest
from rsray.distributed.search.resolved_search import (
    check_data,
    check_search,
    read_own_search,
    resolve_search,
)
from rsray.distributed.train.training_run import TrainingRun
from rsray.progress import duration
from rsray.storage import Place
from rsray.training.cost import plan_training
from rsray.training.request import TrainingRequest
from rsray.training.run_folder.checkpoint import latest_position
from rsray.training.run_folder.run import (
    RUN_FILE,
    WEIGHTS_FILE,
    check_settings,
    is_finished,
    read_own_run,
)

MEASURED = PlanConfig(seconds=1.0)
RUN_FILES = f"{RUN_FILE}, metrics.jsonl, checkpoints/, {WEIGHTS_FILE}, README.md"
CERT_FILES = "certify.yaml, counts/, certificates.parquet, summary.json"
TUNE_FILES = "tune.yaml, the study, trials.parquet, best.yaml, a page"
ELSEWHERE = "rsray plan on a machine like the cluster's measures it"


def training(request: TrainingRequest, place: Place, address: str | None) -> list[str]:
    """Return what a training run would be; UserError as the run would raise it."""
    config, address = request.config, address or os.environ.get("RAY_ADDRESS")
    run = TrainingRun.of(config, place, request.split, address)
    record = read_own_run(place, config, request.split)
    is_done = record is not None and is_finished(place)
    if not is_done:
        check_settings(config, request.split, run.device)
    if not (run.is_here or address or is_cluster_open()):
        # A Ray of this machine has no room for more.
        cores, gpus = float(available_cpus()), float(usable_gpus())
        each = float(gpus > 0) if config.gpus_per_worker is None else config.gpus_per_worker
        check_room(Capacity(((cores, gpus),), cores, gpus), max(1, config.workers), each)
    steps = request.steps_per_epoch
    minutes = config.checkpoint_minutes
    inside = f" and every {minutes:g} minutes" if minutes else ""
    state, time = "a new run", ELSEWHERE
    if record:
        state = "finished: nothing to do" if is_done else f"goes on after {latest_position(place)}"
    if not address:
        time = "none" if is_done else _training_time(request)
    return _aligned(
        {
            "where": _where_it_trains(run, address),
            "precision": _precision(resolve_precision, config.precision, run.device, address),
            "steps": f"{steps:,} of {config.batch_size:,} images an epoch, "
            f"{steps * config.epochs:,} in {config.epochs:,} epochs",
            "draws": f"{request.num_draws} of an image in a step, {request.noisy_images:,} in all",
            "images": "read while it trains" if run.is_streamed else "stay in memory",
            "checkpoints": f"after each epoch{inside}",
            "state": state,
            "files": RUN_FILES,
            "time": time,
        }
    )


def _training_time(request: TrainingRequest) -> str:
    plan = plan_training(request, MEASURED, threads=available_cpus(), is_checked=True)
    speed = f"{plan.draws_per_second:,.0f} noisy images/s"
    return f"about {duration(plan.hours * 3600)}, at this machine's {speed}"


def certification(request: CertificationRequest, place: Place, address: str | None) -> list[str]:
    """Return what a certification would be; UserError as it would raise it."""
    config, address = request.config, address or os.environ.get("RAY_ADDRESS")
    earlier, fleet = recorded_evaluation(place, config), fleet_of_one_machine(config, address)
    images, blocks = len(request.selected.indices), ceil(config.n / config.block_size)
    most = images * (config.n0 + config.n)
    device = torch.device("cpu") if config.gpus_per_actor == 0 else default_device()
    rows = {
        "where": _where_it_counts(config, fleet, address),
        "precision": _precision(fastest_precision, config.precision, device, address),
        "draws": f"{config.n0:,} + {config.n:,} of each image, "
        f"{'' if config.sampling == 'fixed' else 'up to '}{most:,} in all",
        "blocks": f"{blocks:,} of {config.block_size:,} draws an image",
        "state": "a new certification" if earlier is None else "goes on with the draws it holds",
        "files": CERT_FILES,
        "time": ELSEWHERE,
    }
    if not address:
        actors = fleet.actors if fleet else config.actors or max(1, usable_gpus())
        # A network is compiled for long work, which alone takes minutes.
        eager = config.model_copy(update={"compile": "off"})
        settings = MEASURED.model_copy(update={"actors": actors})
        found = measure_plan(request._replace(config=eager), settings)
        speed = found.forecast.draws_per_second
        # One machine's own processes begin at once, where a fleet of Ray's has to start.
        hours = found.forecast.actor_hours() / actors if fleet else found.hours
        rows["time"] = f"about {duration(hours * 3600)} at {speed:,.0f} draws/s an actor"
    return _aligned(rows)


def search(request: SearchRequest, place: Place, address: str | None) -> list[str]:
    """Return what a search would be; UserError as it would raise it."""
    config, found = request.config, resolve_search(request.config)
    check_search(found)
    earlier = read_own_search(place, found, request.train)
    if earlier is None:
        check_data(found, request.train)
    address = address or os.environ.get("RAY_ADDRESS")
    final = f"; best/ ({RUN_FILES}), best/certificates/ ({CERT_FILES})" if config.final else ""
    draws = found.trial({}).build_objective().num_draws
    rows = {
        "where": f"Ray at {address}",
        "trials": f"{config.trials:,}, each up to {found.most_epochs:,} epochs of "
        f"{config.train.batch_size:,} images a step, {draws} draws of each",
        "state": "a new search" if earlier is None else "goes on with the trials it holds",
        "files": TUNE_FILES + final,
        "time": ELSEWHERE,
    }
    if not address:
        cores, gpus = float(available_cpus()), usable_gpus()
        plan = plan_search(found, MEASURED, cores=cores, gpus=gpus)
        shared = plan.trials
        rows["where"] = (
            f"a Ray of this machine: trials at a time {shared.concurrent}, workers of each "
            f"{shared.workers}, CPU cores of a worker {shared.cpus:g} ({plan.device_name})"
        )
        rows["time"] = plan.forecast.line(shared, config.trials)
    return _aligned(rows)


def _where_it_trains(run: TrainingRun, address: str | None) -> str:
    if run.is_here:
        return f"this process, on {run.device.type} ({device_name(run.device)})"
    config = run.config
    most = f"-{config.most_workers}" if config.most_workers else ""
    number = f"{config.workers or 1}{most}"
    return f"workers of Ray Train: {number}, {_on_ray(config.gpus_per_worker, address)}"


def _where_it_counts(config: CertifyConfig, fleet: FleetSize | None, address: str | None) -> str:
    if fleet is not None:
        return f"this machine: processes {fleet.actors}, CPU cores of each {fleet.threads}"
    most = f"-{config.most_actors}" if config.most_actors else ""
    number = f"{config.actors or 'as many as fit'}{most}"
    return f"actors: {number}, {_on_ray(config.gpus_per_actor, address)}"


def _on_ray(gpus: float | None, address: str | None) -> str:
    """Return what each process has, and which Ray it is on."""
    each = "a GPU each where there are any" if gpus is None else f"{gpus:g} GPUs each"
    return f"{each}, on {f'Ray at {address}' if address else 'a Ray of this machine'}"


def _precision(
    choose: Callable[[str | None, torch.device], str],
    asked: str | None,
    device: torch.device,
    address: str | None,
) -> str:
    """Return the precision, as far as it is known before the workers are."""
    if asked is not None or not address:
        return choose(asked, device)
    return "bf16 where the workers compute it"


def _aligned(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]
