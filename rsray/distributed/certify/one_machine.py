"""Whether a certification is counted on this machine without Ray, and by how many processes."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from rsray.certification.counting.certification_run import CertificationRun
from rsray.certification.counting.own_processes import LONG_RUN_SECONDS, OwnProcesses
from rsray.certification.forecast import forecast
from rsray.config import CertifyConfig
from rsray.core.gpus import usable_gpus
from rsray.core.hardware import available_cpus
from rsray.distributed.capacity import Capacity, FleetSize, capacity, plan_fleet
from rsray.errors import UserError

FORECAST_SECONDS = 0.3


def fleet_of_one_machine(config: CertifyConfig, address: str | None) -> FleetSize | None:
    """Return this machine's fleet where it does the whole job; None where Ray must be asked.

    So it is where no cluster is named or open, and none is to grow, and where there is no GPU to
    use. Raises UserError for more actors than CPU cores.
    """
    is_named = address is not None or "RAY_ADDRESS" in os.environ
    uses_gpu = config.gpus_per_actor != 0 and usable_gpus() > 0
    if is_named or uses_gpu or config.gpus_per_actor or config.most_actors is not None:
        return None
    if is_cluster_open():
        return None
    cores = float(available_cpus())
    return plan_fleet(Capacity(((cores, 0.0),), cores, 0.0), config.actors, 0.0)


def is_cluster_open() -> bool:
    """Tell whether this process is connected to a Ray of more than this machine's cores."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    room = capacity()
    is_more = room.most_cpus > sum(cpus for cpus, _ in room.nodes) or room.most_gpus > 0
    return len(room.nodes) > 1 or is_more or bool(ray.util.client.ray.is_connected())


def own_processes(run: CertificationRun, fleet: FleetSize) -> tuple[OwnProcesses, float]:
    """Return processes of this machine for a run, and about how many seconds it will take."""
    left, speed = run.draws_left(), max(run.claimed.evaluation.draws_per_second, 1.0)
    # The forward passes alone; most plans other than fixed make far fewer draws.
    seconds = left / speed / fleet.actors
    # A factory of the user's own may end the process that runs it.
    may_try = left and not run.request.source.is_users_code
    if may_try and (seconds < LONG_RUN_SECONDS or not run.plan.is_same_for_all):
        seconds = _forecast_seconds(run, fleet, left) or seconds
    settings = run.counter_settings(fleet.threads)
    return OwnProcesses(settings, fleet.actors, seconds * fleet.actors), seconds


def _forecast_seconds(run: CertificationRun, fleet: FleetSize, left: int) -> float | None:
    """Return the seconds of what is left, from a moment of counting; None where that fails."""
    threads = torch.get_num_threads()
    torch.set_num_threads(fleet.threads)
    try:
        found = forecast(run.request, run.claimed.evaluation, seconds=FORECAST_SECONDS)
    except UserError:  # of one image: the others are counted
        return None
    finally:
        torch.set_num_threads(threads)
    share = left / (found.images * (run.plan.n0 + run.plan.n))
    return share * found.actor_hours() * 3600 / fleet.actors
