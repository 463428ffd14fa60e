"""How the trials of a search share the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rsray.config import TuneConfig
from rsray.data import DATASETS
from rsray.distributed.capacity import capacity, cores_each, slots_on
from rsray.errors import UserError

DRIVER_CPU = 0.01  # of a trial whose workers are elsewhere
ROUNDS = 4  # of trials, one after the other, for TPE to learn from
Nodes = Sequence[Mapping[str, float]]  # each {"CPU": ..., "GPU": ...}


class Plan(NamedTuple):
    """How many trials at a time, of how many workers, of how many CPU cores each."""

    concurrent: int
    workers: int
    cpus: float


def plan_trials(nodes: Nodes, config: TuneConfig, gpus: float, missing: int) -> Plan:
    """Return how trials share the nodes: on one node each worker, its cores with it.

    `gpus` is those of one worker, 0 for the CPU. A number of concurrent trials that was asked for
    is kept: those without room wait for it, or for the nodes that a growing cluster starts for
    them. Raises UserError when one trial does not fit.
    """
    wanted = config.workers or 1
    room = sum(_room(node, gpus) for node in nodes)
    if wanted > room:
        kind = f"{gpus:g} GPUs each" if gpus else "a CPU core each"
        raise UserError(
            f"workers is {wanted}: that needs {kind}, the cluster has room for {room} "
            "(where it grows on demand: have its nodes up first, as wait_for in clusters/ does)"
        )
    concurrent = min(config.concurrent or _useful(config, room // wanted), missing)
    slots = concurrent * wanted
    if gpus:
        cpus = float(min(int(n["CPU"]) // _room(n, gpus) for n in nodes if _room(n, gpus)))
    else:
        cpus = float(cores_each((node["CPU"] for node in nodes), slots))
    # The workers of a group leave their trial's own process its bit of a core.
    return Plan(concurrent, wanted, cpus - DRIVER_CPU * (wanted > 1))


def _useful(config: TuneConfig, room: int) -> int:
    """Return how many trials at a time are worth it: TPE proposes blindly without results."""
    return min(room, max(2, config.trials // ROUNDS)) if config.sampler == "tpe" else room


def _room(node: Mapping[str, float], gpus: float) -> int:
    """Return how many workers a node has room for."""
    cores = int(node.get("CPU", 0))
    return min(cores, slots_on(node.get("GPU", 0), gpus)) if gpus else cores


def cluster_nodes() -> list[dict[str, float]]:
    """Return what Ray may use on each node that is alive."""
    return [{"CPU": cpus, "GPU": gpus} for cpus, gpus in capacity().nodes]


def gpus_per_worker(config: TuneConfig, nodes: Nodes) -> float:
    """Return what was asked for, else 1 where there are GPUs."""
    given = config.train.gpus_per_worker
    return given if given is not None else float(any(node["GPU"] for node in nodes))


def with_workers(config: TuneConfig, nodes: Nodes) -> TuneConfig:
    """Return the search with its workers per trial decided."""
    workers = config.workers or max(1, config.train.workers)
    gpus = gpus_per_worker(config, nodes)
    if config.workers is None and workers == 1 and gpus:
        room = sum(_room(node, gpus) for node in nodes)
        workers = max(1, min(DATASETS[config.train.dataset].gpu_workers, room))
    return config.model_copy(update={"workers": workers})


def may_have_groups(config: TuneConfig) -> bool:
    """Tell, before the nodes are known, whether a trial may have several workers."""
    is_large = DATASETS[config.train.dataset].gpu_workers > 1
    return (config.workers is None and is_large) or (config.workers or config.train.workers) > 1
