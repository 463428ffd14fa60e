"""How the trials of a search share the nodes of a cluster."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
import torch

from rsray.config import TuneConfig
from rsray.core.hardware import resolve_precision
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.trial_resources import (
    plan_trials,
    precision_of_workers,
    settle_on_cluster,
)
from rsray.errors import UserError
from rsray.presets import train_config


def search_of(dataset="digits", **changes):
    base = train_config({"dataset": "digits"}).model_copy(update={"dataset": dataset})
    values = {"train": base, "search": parse_space([], "macer"), "trials": 200}
    return resolve_search(TuneConfig.make({**values, **changes}))


def plan(nodes, gpus, workers=1, **changes):
    named = [dict(zip(("CPU", "GPU"), node, strict=True)) for node in nodes]
    found = replace(search_of(workers=workers, **changes), nodes=named, gpus_per_worker=gpus)
    return tuple(plan_trials(found, found.config.trials))[:3]


def test_trials_share_the_cores_and_gpus_of_each_node():
    assert plan([(2, 0)], 0) == (2, 1, 1.0)
    assert plan([(8, 0)], 0, concurrent=2) == (2, 1, 4.0)
    assert plan([(4, 0), (4, 0)], 0, concurrent=1) == (1, 1, 4.0)  # never more than a node has
    assert plan([(64, 0), (16, 8), (16, 8)], 1) == (16, 1, 2.0)  # a head without GPUs is no room
    assert plan([(16, 8)], 0.5) == (16, 1, 1.0)
    assert plan([(16, 8)], 0.6) == (8, 1, 2.0)  # parts of two GPUs make no whole
    concurrent, workers, cpus = plan([(16, 8)], 1, workers=4)
    assert (concurrent, workers) == (2, 4) and cpus <= 2
    concurrent, workers, cpus = plan([(2, 0)], 0, workers=2)
    assert (concurrent, workers) == (1, 2) and 2 * cpus + 0.01 <= 2  # room for the trial itself
    with pytest.raises(UserError, match="workers is 3"):
        plan([(2, 0)], 0, workers=3)


def test_trials_leave_cores_to_the_tasks_that_read_images_for_them():
    def shared(nodes, gpus, augmentation):
        train = train_config({"dataset": "digits", "augmentation": augmentation})
        named = [dict(zip(("CPU", "GPU"), node, strict=True)) for node in nodes]
        found = replace(search_of(train=train, concurrent=2), nodes=named, gpus_per_worker=gpus)
        return tuple(plan_trials(found, 2))

    streamed = "random-resized-crop"
    assert shared([(2, 0)], 0, "none") == (2, 1, 1.0, 0.0)
    assert shared([(2, 0)], 0, streamed) == (2, 1, 0.5, 0.5)
    assert shared([(16, 0)], 0, streamed) == (2, 1, 6.0, 1.0)
    assert shared([(16, 2)], 1, streamed) == (2, 1, 1.0, 1.0)


def test_tpe_is_left_some_rounds_to_learn_from():
    assert plan([(64, 0)], 0, trials=20) == (5, 1, 12.0)
    assert plan([(2, 0)], 0, trials=5) == (2, 1, 1.0)  # digits: the cores are not left idle
    assert plan([(64, 0)], 0, trials=20, sampler="random")[0] == 20  # nobody learns
    assert plan([(64, 0)], 0, trials=20, concurrent=20)[0] == 20  # asked for


def test_trials_that_were_asked_for_wait_for_the_nodes_that_come_for_them():
    assert plan([(0, 0), (16, 1)], 1) == (1, 1, 16.0)
    assert plan([(0, 0), (16, 1)], 1, concurrent=4) == (4, 1, 16.0)
    with pytest.raises(UserError, match="room for 0.*wait_for"):
        plan([(0, 0)], 0)


def test_imagenet_has_four_workers_a_trial_where_there_are_gpus():
    def workers(found, gpus):
        return settle_on_cluster(found, [{"CPU": 64.0, "GPU": gpus}], "fp32").config.workers

    large = search_of("imagenet")
    assert workers(large, 8.0) == 4
    assert workers(large, 0.0) == 1
    assert workers(search_of(), 8.0) == 1


def test_gpus_that_no_node_has_are_refused_before_one_is_asked(monkeypatch):
    monkeypatch.setattr(ray, "remote", lambda **resources: pytest.fail("it would wait for ever"))
    train = train_config({"dataset": "digits", "gpus_per_worker": 1})
    nodes = [{"CPU": 8.0, "GPU": 0.0}, {"CPU": 8.0, "GPU": 0.5}]
    with pytest.raises(UserError, match="needs 1 GPUs each, the cluster has room for 0"):
        settle_on_cluster(search_of(train=train), nodes, None)


def test_a_machine_without_gpus_asks_a_worker_for_the_precision(monkeypatch):
    def remote(num_gpus):
        assert num_gpus == 0.5
        return lambda work: SimpleNamespace(remote=lambda precision, device: (precision, device))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", lambda asked: f"what {asked[1]} computes")
    assert precision_of_workers(None, 0.5) == "what cuda computes"
    assert precision_of_workers("fp32", 0.5) == "fp32"  # nobody need be asked
    assert precision_of_workers(None, 0.0) == resolve_precision(None, torch.device("cpu"))
