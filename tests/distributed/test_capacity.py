"""The size of a fleet as a pure function of the cluster's nodes and limits."""

import pytest

from rsray.distributed.capacity import Capacity, plan_fleet
from rsray.errors import UserError


def of(*nodes, cpus=0.0, gpus=0.0):
    """A cluster of nodes (cpus, gpus) that may grow to the limits."""
    here = [sum(each) for each in zip(*nodes, strict=True)]
    return Capacity(nodes, max(cpus, here[0]), max(gpus, here[1]))


def fits(nodes, fleet):
    """Pack the fleet's actors onto the nodes one by one, by brute force."""
    held = 0
    for cpus, gpus in nodes:
        while (
            cpus >= fleet.cpus - 1e-9 and gpus >= fleet.gpus - 1e-9 and (fleet.cpus or fleet.gpus)
        ):
            cpus, gpus, held = cpus - fleet.cpus, gpus - fleet.gpus, held + 1
    return held >= fleet.actors


def test_one_actor_per_core_on_a_laptop():
    fleet = plan_fleet(of((2.0, 0.0)))
    assert (fleet.actors, fleet.cpus, fleet.gpus, fleet.largest) == (2, 1, 0.0, 2)


def test_few_actors_share_the_cores():
    assert plan_fleet(of((8.0, 0.0)), 2).threads == 4
    assert plan_fleet(of((2.0, 0.0)), 1).threads == 2


@pytest.mark.parametrize("actors", range(1, 12))
@pytest.mark.parametrize(
    "nodes", [((3.0, 0), (8.0, 0)), ((1.0, 0), (2.0, 0), (8.0, 0)), ((11.0, 0),)]
)
def test_actors_fit_on_nodes_of_unlike_size_and_are_as_large_as_can_be(nodes, actors):
    fleet = plan_fleet(of(*nodes), actors)
    assert fits(nodes, fleet)
    larger = type(fleet)(actors, fleet.cpus + 1, 0.0)
    assert not fits(nodes, larger)


def test_more_actors_than_cores_are_refused():
    with pytest.raises(UserError, match="actors is 3, but the cluster has 2 CPU cores"):
        plan_fleet(of((2.0, 0.0)), 3)


def test_a_fleet_grows_to_the_autoscalers_limit_only_when_its_size_is_not_given():
    cluster = of((4.0, 0.0), cpus=64.0)
    assert (plan_fleet(cluster).actors, plan_fleet(cluster).largest) == (4, 64)
    assert plan_fleet(cluster, 16).largest == 16  # the autoscaler brings the nodes


def test_an_actors_gpus_are_on_one_node():
    """Nodes with 3 GPUs have room for an actor of 2 each; a third one would wait for ever."""
    threes = of((8.0, 3.0), (8.0, 3.0))
    assert (plan_fleet(threes, gpus_per_actor=2).largest) == 2
    with pytest.raises(UserError, match="actors is 3, but there is room for 2 on 6 GPUs"):
        plan_fleet(threes, 3, 2)
    with pytest.raises(UserError, match="the cluster has 2 GPUs, and no node that many"):
        plan_fleet(of((8.0, 1.0), (8.0, 1.0)), gpus_per_actor=2)


def test_gpus_from_zero():
    fleet = plan_fleet(of((8.0, 0.0), cpus=72.0, gpus=8.0))
    assert (fleet.actors, fleet.largest, fleet.gpus) == (1, 8, 1.0)


@pytest.mark.parametrize(
    ("share", "actors"), [(1.0, 6), (0.5, 12), (0.25, 24), (0.4, 12), (2.0, 3)]
)
def test_fractional_gpus_do_not_straddle(share, actors):
    nodes = ((16.0, 4.0), (8.0, 2.0), (4.0, 0.0))
    fleet = plan_fleet(of(*nodes), None, share)
    assert fleet.actors == actors and fleet.gpus == share
    assert fits(nodes[:2], fleet)


def test_gpus_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="gpus-per-actor is 1, but the cluster has 0 GPUs"):
        plan_fleet(of((2.0, 0.0)), None, 1.0)


def test_cpu_actors_on_a_gpu_cluster_when_asked():
    assert plan_fleet(of((8.0, 1.0)), None, 0.0).gpus == 0


def test_a_range_of_actors_waits_for_nodes_to_come():
    fleet = plan_fleet(of((1.0, 0.0)), 1, None, 3)
    assert (fleet.actors, fleet.largest, fleet.cpus) == (1, 3, 1)
    fleet = plan_fleet(of((4.0, 0.0)), 2, 1.0, 64)  # a GPU cluster that stands at zero
    assert (fleet.actors, fleet.largest, fleet.gpus) == (2, 64, 1.0)
