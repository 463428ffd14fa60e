"""How a trial of a search ends when something breaks: the setting's fault, or the machine's."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray.tune
import torch
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train import ControllerError, UserCallback, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from rsray.config import TuneConfig
from rsray.distributed.search import trial as trials
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.trial import TrialJob, run_trial
from rsray.distributed.search.trial_resources import TrialPlan
from rsray.distributed.train.failures import is_machines_fault
from rsray.errors import UserError
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.loop import Training
from rsray.training.opened_run import Team
from rsray.training.run_folder.run import claim_run, open_training_split
from rsray.training.step import MemoryShortError

ASSERTED = "CUDA error: device-side assert triggered"


def job_of(tmp_path, *, workers=1, gpus=0.0):
    base = train_config({"dataset": "digits", "epochs": 2})
    config = TuneConfig.make({"train": base, "search": parse_space([], "macer")})
    search = replace(resolve_search(config), gpus_per_worker=gpus)
    return TrialJob(search, TrialPlan(1, workers, 1.0), (), Place.of(tmp_path))


@pytest.fixture
def reported(monkeypatch):
    """What a trial tells Tune."""
    rows = []
    monkeypatch.setattr(ray.tune, "report", rows.append)
    return rows


def failing(problem):
    def train(*arguments):
        raise problem

    return train


def test_a_setting_that_fails_has_a_figure_for_every_objective(tmp_path, monkeypatch, reported):
    monkeypatch.setattr(trials, "_train_here", failing(ValueError("no\nluck")))
    run_trial({}, job_of(tmp_path))
    assert reported == [
        {"projected_acr": 0.0, "clean_accuracy": 0.0, "error": "ValueError: no luck"}
    ]


def test_the_trials_of_a_search_start_from_the_weights_that_init_names(tmp_path, reported):
    """At a rate of next to nothing, a trial's network is the RUN's."""
    learnt = {"dataset": "digits", "objective": "gaussian", "validation": 0.2}
    run, short = Place.of(tmp_path / "run"), {**learnt, "lr": 1e-9, "epochs": 1}
    config = train_config({**learnt, "lr": 0.05, "epochs": 6})
    claim_run(run, config, open_training_split(config), torch.device("cpu"))
    Training(config, run, torch.device("cpu")).run_epochs()
    for init in (None, str(run)):
        tuned = {"train": train_config({**short, "init": init}), "validation": 0.2, "search": {}}
        search = resolve_search(TuneConfig.make({**tuned, "num_draws": 16}))
        run_trial({}, TrialJob(search, TrialPlan(1, 1, 1.0), (), Place.of(tmp_path)))
    untrained, started = (row["clean_accuracy"] for row in reported)
    assert untrained < 0.3 and started > 0.5


@pytest.mark.parametrize(
    ("plan", "expected"),
    [((1, 1, 8.0), 1), ((4, 1, 2.0), 4), ((64, 1, 2.0), 4), ((2, 2, 1.99), 4), ((1, 1, 16.0), 1)],
)
def test_the_trials_of_a_machine_share_its_memory(tmp_path, monkeypatch, reported, plan, expected):
    teams = []

    def opened(config, run, device, team, **more):
        teams.append(team)
        raise UserError("that is enough")

    monkeypatch.setattr(trials, "Training", opened)
    monkeypatch.setattr(trials, "available_cpus", lambda: 8)
    job = replace(job_of(tmp_path), plan=TrialPlan(*plan))
    with pytest.raises(UserError):
        trials._train_here({}, job, Team(), torch.device("cpu"), reported.append)
    assert [team.workers_here for team in teams] == [expected]


def test_a_group_that_is_short_of_memory_begins_anew_in_smaller_groups(tmp_path, monkeypatch):
    tried = []

    def fit(point, job, group_size, failed_starts):
        tried.append(group_size)
        if len(tried) < 3:
            raise MemoryShortError(64 // 2 ** len(tried))

    monkeypatch.setattr(trials, "_fit_group", fit)
    run_trial({}, job_of(tmp_path, workers=2))
    assert tried == [None, 32, 16]


SET_UP = RuntimeError("NCCL WARN")


@pytest.mark.parametrize(
    ("failure", "starts", "told"),
    [
        # What the set-up raises, it would raise again.
        (
            ControllerError(RayTaskError("setup", f"traceback\n{SET_UP!r}", SET_UP)), 1,
            "the workers cannot be set up: RuntimeError('NCCL",
        ),
        # Another trial may hold the room.
        (ControllerError(WorkerGroupStartupTimeoutError(2)), 4, None),
        # A worker that was lost in its work is Tune's to run again.
        (WorkerGroupError("lost", {0: ActorDiedError()}), 1, None),
    ],
)  # fmt: skip
def test_a_group_is_started_again_only_where_that_may_help(
    tmp_path, monkeypatch, reported, failure, starts, told
):
    names = []

    class Trainer:
        def __init__(self, *given, run_config, **more):
            assert run_config.failure_config.controller_failure_limit == 0
            names.append(run_config.name)

        def fit(self):
            raise failure

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    monkeypatch.setattr(ray.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "t"))
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", UserCallback)
    if told is None:
        with pytest.raises((WorkerGroupStartupTimeoutError, WorkerGroupError)):
            run_trial({}, job_of(tmp_path, workers=2))
    else:
        run_trial({}, job_of(tmp_path, workers=2))
        assert reported[0]["error"].startswith(told)
    assert len(names) == len(set(names)) == starts


@pytest.mark.parametrize(("gpus", "kind"), [(0.0, "cpu"), (0.5, "cuda")])
def test_a_trial_without_gpus_of_its_own_trains_on_the_cpu(tmp_path, monkeypatch, gpus, kind):
    devices = []
    # Whatever torch says of this machine: it is never a CPU in the place of a GPU.
    monkeypatch.setattr("rsray.core.hardware.usable_gpus", lambda: 1 if kind == "cpu" else 0)
    monkeypatch.setattr(trials, "_train_here", lambda *given: devices.append(given[3].type))
    run_trial({}, job_of(tmp_path, gpus=gpus))
    assert devices == [kind]


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (UserError("the loss became nan"), False),
        (RuntimeError("shapes do not match"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.AcceleratorError(ASSERTED), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling gemm"), True),
        (ActorDiedError(), True),
        (ControllerError(RuntimeError("the workers did not start")), True),
        (WorkerGroupError("", {0: RuntimeError("shapes do not match")}), False),
        (WorkerGroupError("", {0: RuntimeError("peer is gone"), 1: ActorDiedError()}), True),
        (WorkerGroupError("", {1: WorkerHealthCheckFailedError("", ActorDiedError())}), True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("workers", [1, 2])
def test_only_the_machines_fault_is_raised(
    tmp_path, monkeypatch, reported, workers, problem, expected
):
    """Tune runs again what raises, and in a new process."""
    assert is_machines_fault(problem) == expected
    monkeypatch.setattr(trials, "_train_here", failing(problem))
    monkeypatch.setattr(trials, "_train_in_group", failing(problem))
    if expected:
        with pytest.raises(type(problem)):
            run_trial({}, job_of(tmp_path, workers=workers))
    else:
        run_trial({}, job_of(tmp_path, workers=workers))
    assert len(reported) == (not expected)


def test_a_network_that_always_names_one_class_has_no_projected_acr(tmp_path):
    job = job_of(tmp_path)
    training = Training(job.search.trial({}), None, torch.device("cpu"))
    share = trials._share_of_held_out(training, Team())
    last = list(training.model.parameters())[-1]
    with torch.no_grad():
        last[3] = 1e3
    look = trials._look_at(training, share, Team(), 16)
    assert look["projected_acr"] == 0 and look["clean_accuracy"] == pytest.approx(0.1, abs=0.02)
    assert training.project_acr(16).acr > 0.05, "its radii are as large as they can be"
