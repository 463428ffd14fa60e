"""What the cluster decides of a search, and how its trials share the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from rsray.core.gpus import usable_gpus
from rsray.core.hardware import resolve_precision
from rsray.data import DATASETS
from rsray.distributed.capacity import capacity, cores_each, slots_on
from rsray.distributed.gpu_probe import check_gpus
from rsray.distributed.search.resolved_search import Nodes, Search
from rsray.distributed.train.feed import share_with_reading
from rsray.distributed.train.training_run import may_stream
from rsray.errors import UserError

# CPU cores of a trial's own process, when its workers are elsewhere.
DRIVER_CPUS = 0.01
# Trials come in at least so many rounds, one after the other, for TPE to learn from.
LEAST_ROUNDS_OF_TRIALS = 4


class TrialPlan(NamedTuple):
    """How many trials at a time, of how many workers, of how many CPU cores each."""

    concurrent: int
    workers: int
    cpus: float
    # Of a task that reads images for a worker; 0 where none does.
    reading_cpus: float = 0.0


def may_have_groups(search: Search) -> bool:
    """Tell, before the nodes are known, whether a trial may have several workers."""
    workers, train = search.config.workers, search.config.train
    is_large = DATASETS[train.dataset].gpu_workers > 1
    return (workers is None and is_large) or (workers or train.workers) > 1


def cluster_nodes() -> Nodes:
    """Return what Ray may use on each node that is alive."""
    return [{"CPU": cpus, "GPU": gpus} for cpus, gpus in capacity().nodes]


def nodes_for(search: Search) -> Nodes:
    """Return the nodes, once there is one with a GPU on a cluster that can have some.

    UserError where torch cannot use the GPUs.
    """
    asked = search.config.train.gpus_per_worker
    if capacity().most_gpus:
        check_gpus(1.0 if asked is None else asked)
    return cluster_nodes()


def settle_on_cluster(search: Search, nodes: Nodes, recorded_precision: str | None) -> Search:
    """Return the search with its workers, their GPUs and its precision decided.

    So best.yaml trains the same anywhere. A best.yaml that is there already has decided the
    precision: TUNE may go on on other hardware.
    """
    config = search.config
    asked = config.train.gpus_per_worker
    gpus = asked if asked is not None else float(any(node["GPU"] for node in nodes))
    if gpus and not any(_room(node, gpus) for node in nodes):
        # Nobody could be asked for the precision, and would be waited for.
        raise _no_room(config.workers or 1, gpus, 0)
    decided: dict[str, Any] = {"workers": config.workers or max(1, config.train.workers)}
    if config.workers is None and decided["workers"] == 1 and gpus:
        room = sum(_room(node, gpus) for node in nodes)
        decided["workers"] = max(1, min(DATASETS[config.train.dataset].gpu_workers, room))
    if "precision" not in search.space:
        precision = recorded_precision or precision_of_workers(config.train.precision, gpus)
        decided["train"] = config.train.model_copy(update={"precision": precision})
    config = config.model_copy(update=decided)
    return replace(search, config=config, nodes=nodes, gpus_per_worker=gpus)


def precision_of_workers(precision: str | None, gpus: float) -> str:
    """Return the precision asked for, or the one that workers on `gpus` GPUs each choose."""
    device = torch.device("cuda" if gpus else "cpu")
    if precision is not None or not gpus or usable_gpus():
        return resolve_precision(precision, device)
    import ray

    # This machine, a cluster's head as a rule, has no GPU to ask.
    ask = ray.remote(num_gpus=min(gpus, 1))(resolve_precision)
    found: str = ray.get(ask.remote(precision, device))
    return found


def plan_trials(search: Search, missing: int) -> TrialPlan:
    """Return how so many trials share the nodes: on one node each worker, its cores with it.

    A number of concurrent trials that was asked for is kept: those without room wait for it, or
    for the nodes that a growing cluster starts for them. Raises UserError when one trial does not
    fit.
    """
    nodes, gpus, wanted = search.nodes, search.gpus_per_worker, search.config.workers or 1
    room = sum(_room(node, gpus) for node in nodes)
    if wanted > room:
        raise _no_room(wanted, gpus, room)
    concurrent = search.config.concurrent
    if concurrent is None:
        concurrent = room // wanted
        # Without results TPE proposes blindly.
        if search.config.sampler == "tpe":
            concurrent = min(concurrent, max(2, search.config.trials // LEAST_ROUNDS_OF_TRIALS))
    concurrent = min(concurrent, missing)
    if gpus:
        cpus = float(min(int(n["CPU"]) // _room(n, gpus) for n in nodes if _room(n, gpus)))
    else:
        cpus = float(cores_each((node["CPU"] for node in nodes), concurrent * wanted))
    reading_cpus = 0.0
    if may_stream(search.config.train):
        cpus, reading_cpus = share_with_reading(cpus, gpus)
    # The workers of a group leave their trial's own process its bit of a core.
    return TrialPlan(concurrent, wanted, cpus - DRIVER_CPUS * (wanted > 1), reading_cpus)


def _no_room(wanted: int, gpus: float, room: int) -> UserError:
    kind = f"{gpus:g} GPUs each" if gpus else "a CPU core each"
    return UserError(
        f"workers is {wanted}: that needs {kind}, the cluster has room for {room} "
        "(where it grows on demand: have its nodes up first, as wait_for in clusters/ does)"
    )


def _room(node: Mapping[str, float], gpus: float) -> int:
    """Return how many workers a node has room for."""
    cores = int(node.get("CPU", 0))
    return min(cores, slots_on(node.get("GPU", 0), gpus)) if gpus else cores
