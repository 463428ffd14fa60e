"""How large a certification fleet the cluster holds, now and at its autoscaler's limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rsray.errors import UserError


@dataclass(frozen=True)
class Capacity:
    """CPU cores and GPUs of each node, and those that an autoscaler may bring the cluster to."""

    nodes: tuple[tuple[float, float], ...]
    most_cpus: float
    most_gpus: float


@dataclass(frozen=True)
class FleetSize:
    """How many actors of which size: `actors` where nodes are there for them, up to `most`."""

    actors: int
    cpus: float
    gpus: float
    # 0: no more than `actors`
    most: int = 0

    @property
    def threads(self) -> int:
        """Torch threads of an actor: exactly its share of cores."""
        return max(1, int(self.cpus))

    @property
    def largest(self) -> int:
        """The size the fleet may grow to."""
        return max(self.actors, self.most)


def capacity() -> Capacity:
    """Return the capacity of the cluster that this process is connected to."""
    import ray

    # The public API does not tell an autoscaler's limits
    from ray._private.state import state

    nodes = tuple(
        (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    )
    most = state.get_max_resources_from_cluster_config() or {}
    return Capacity(
        nodes,
        max(sum(cpus for cpus, _ in nodes), float(most.get("CPU", 0))),
        max(sum(gpus for _, gpus in nodes), float(most.get("GPU", 0))),
    )


def check_room(room: Capacity, workers: int, gpus: float) -> None:
    """Raise UserError for workers that the cluster can never have room for."""
    have = room.most_gpus if gpus else room.most_cpus
    need = workers * (gpus or 1)
    if need > have:
        kind = "GPUs" if gpus else "CPU cores"
        raise UserError(
            f"workers is {workers}: that needs {need:g} {kind}, the cluster has {have:g}"
        )


def cores_each(nodes: Iterable[float], count: int) -> int:
    """Return the most cores that each of `count` processes can have on nodes of so many cores.

    Parts of two nodes make no process. One core each when they do not all fit.
    """
    cores = [int(node) for node in nodes]
    largest = range(max(cores, default=1), 1, -1)
    return next((size for size in largest if sum(node // size for node in cores) >= count), 1)


def plan_fleet(
    capacity: Capacity,
    actors: int | None = None,
    gpus_per_actor: float | None = None,
    most: int | None = None,
) -> FleetSize:
    """Return the fleet: one actor per GPU, or per CPU core, unless it says otherwise.

    Without a number it fills the nodes that are there, and grows to what the autoscaler is known
    to allow. Ray tells that limit on some clusters only: `most` actors says that the cluster will
    grow, and nothing is refused then. UserError names what the cluster cannot hold.
    """
    gpus = float(capacity.most_gpus > 0) if gpus_per_actor is None else gpus_per_actor
    if most is not None:
        cpus = 1.0 if gpus <= 0 else _on_gpus(capacity, actors, gpus, will_grow=True).cpus
        return FleetSize(actors or 1, cpus, gpus, most=most)
    if gpus > 0:
        return _on_gpus(capacity, actors, gpus)
    cores, most = [cpus for cpus, _ in capacity.nodes], int(min(capacity.most_cpus, 1e6))
    if actors is None:
        return FleetSize(max(1, sum(map(int, cores))), 1, 0.0, most=most)
    if actors > most:
        raise UserError(f"actors is {actors}, but the cluster has {most} CPU cores")
    return FleetSize(actors, cores_each(cores, actors), 0.0)


def _on_gpus(
    capacity: Capacity, actors: int | None, per_actor: float, will_grow: bool = False
) -> FleetSize:
    if per_actor > 1 and per_actor != int(per_actor):
        raise UserError(f"gpus-per-actor is {per_actor:g}: it is a part of 1, or a whole number")
    here = [(cpus, slots_on(gpus, per_actor)) for cpus, gpus in capacity.nodes]
    now = sum(slots for _, slots in here)
    # Of nodes that may come only the sum of their GPUs is known.
    may_come = capacity.most_gpus > sum(gpus for _, gpus in capacity.nodes)
    most = slots_on(capacity.most_gpus, per_actor) if may_come else now
    if most < 1 and not will_grow:
        raise UserError(
            f"gpus-per-actor is {per_actor:g}, but the cluster has {capacity.most_gpus:g} GPUs, "
            "and no node that many"
        )
    if actors is not None and actors > most and not will_grow:
        raise UserError(
            f"actors is {actors}, but there is room for {most} on {capacity.most_gpus:g} GPUs"
        )
    # Room for Ray Data's own tasks beside the actors.
    cpus = min([1.0, *(cpus / slots / 2 for cpus, slots in here if slots)])
    wanted = actors or max(1, now)
    return FleetSize(wanted, max(0.1, cpus), per_actor, most=0 if actors else most)


def slots_on(gpus: float, per_actor: float) -> int:
    """Return how many actors fit on a node's GPUs; parts of two GPUs make no whole."""
    if per_actor >= 1:
        return int(gpus / per_actor)
    return int(gpus) * int(1 / per_actor + 1e-9)
