"""A trial trains one setting: one worker inside the trial, several in a nested Ray Train group.

A nested group costs 20 seconds to start (rsray/distributed/README.md): one worker does without.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch

from rsray.config import TUNE_OBJECTIVES
from rsray.core.hardware import available_cpus, dedicate_process
from rsray.distributed.search.resolved_search import Search
from rsray.distributed.search.space import Point
from rsray.distributed.search.trial_resources import TrialPlan
from rsray.distributed.search.watch import METRIC
from rsray.distributed.session import extend_search_path
from rsray.distributed.train.failures import cause_of, is_machines_fault, refuse_failed_setup
from rsray.distributed.train.feed import RayFeed
from rsray.distributed.train.worker import join_team, make_trainer, worker_resources
from rsray.errors import UserError
from rsray.results.sanity import has_learnt
from rsray.storage import Place
from rsray.training.batches.feeds import OpenFeed, ReadAheadFeed
from rsray.training.loop import DivergedError, Training
from rsray.training.opened_run import Team
from rsray.training.step import MemoryShortError
from rsray.training.validation import project_acr

# Of a trial's group, beyond the first one.
MOST_FAILED_STARTS = 3
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialJob:
    """What every trial is told; it travels to other nodes."""

    search: Search
    plan: TrialPlan
    search_path: tuple[str, ...]
    # For the files of nested groups: a folder that all nodes see.
    scratch: Place

    @property
    def gpus(self) -> float:
        """How many GPUs a worker has."""
        return self.search.gpus_per_worker


def run_trial(point: Point, job: TrialJob) -> None:
    """Train one setting in a Tune worker and report a look at it every few epochs.

    A setting that cannot be trained (it diverges, or the code raises) is reported as such and not
    raised: what is raised is the machine's fault, and makes Tune run the trial again in a new
    process.
    """
    import ray.tune

    extend_search_path(job.search_path)
    try:
        if job.plan.workers > 1:
            _train_in_group(point, job)
        else:
            # A GPU that torch cannot use here is an error, not a CPU in its place.
            device = torch.device("cuda", 0) if job.gpus else torch.device("cpu")
            _train_here(point, job, Team(), device, ray.tune.report)
    except Exception as problem:
        if is_machines_fault(problem):
            raise
        text = " ".join(str(problem).split()) or "no message"
        kind = "" if isinstance(problem, UserError) else f"{type(problem).__name__}: "
        # ASHA asks for a figure of every objective.
        figures = dict.fromkeys(TUNE_OBJECTIVES.values(), 0.0)
        ray.tune.report({**figures, "error": f"{kind}{text}"[:500]})


def _train_here(
    point: Point,
    job: TrialJob,
    team: Team,
    device: torch.device,
    report: Report,
    group_size: int | None = None,
) -> None:
    """Train in this process, alone or as a member of a team; every member reports equally often."""
    plan, config = job.plan, job.search.trial(point)
    dedicate_process(max(1, round(plan.cpus)), job.gpus)
    # The workers of all trials on this machine share its memory.
    workers = max(1, min(plan.concurrent * plan.workers, int(available_cpus() / plan.cpus)))
    team, feed = replace(team, workers_here=workers), cast(OpenFeed, ReadAheadFeed)
    if plan.reading_cpus:
        feed = partial(RayFeed, cpus=plan.reading_cpus, trainings=plan.concurrent)
    training = Training(config, None, device, team, open_feed=feed)
    training.stepper.group_size = group_size
    every = job.search.config.report_every
    share = _share_of_held_out(training, team)

    def look(row: dict[str, Any]) -> None:
        done = row["epoch"] + 1
        if done % every == 0 or done == config.epochs:
            figures = _look_at(training, share, team, job.search.config.num_draws)
            progress = {"look": -(-done // every), "epoch": done, "epochs": config.epochs}
            report({**figures, **progress, "loss": row["loss"]})

    training.run_epochs(look)


def _share_of_held_out(training: Training, team: Team) -> tuple[torch.Tensor, torch.Tensor]:
    held_out = training.held_out
    if len(held_out) < team.world:
        raise UserError(
            f"validation is {training.config.validation:g}: {len(held_out)} held-out images are "
            f"too few for {team.world} workers"
        )
    return replace(held_out, indices=held_out.indices[team.rank :: team.world]).tensors()


def _look_at(
    training: Training, share: tuple[torch.Tensor, torch.Tensor], team: Team, num_draws: int
) -> dict[str, float]:
    """Return the projected ACR and clean accuracy over all held-out images.

    The projected ACR is 0 where the network has learnt nothing: one that always names the same
    class has large radii around the images of that class, and would win.

    Each worker looks at its share. The draws depend on the seed, the number of workers and the
    image's place only: the trials of a search are compared on the same ones.
    """
    images, labels = share
    found = project_acr(
        training.model,
        images,
        labels,
        sigma=training.config.sigma,
        precision=training.precision,
        seed=training.config.seed * team.world + team.rank,
        num_draws=num_draws,
    )
    classes = training.split.num_classes
    right_K = torch.bincount(labels[torch.tensor(found.correct_N)], minlength=classes)
    images_K = torch.bincount(labels, minlength=classes)
    acr_1 = torch.tensor([found.acr * len(labels)], device=labels.device, dtype=torch.float64)
    acr, *counts = team.sum_over(torch.cat((acr_1, right_K.double(), images_K.double()))).tolist()
    if not math.isfinite(acr):
        raise DivergedError("the projected ACR is not a number")
    right, each = counts[:classes], counts[classes:]
    return {
        METRIC: acr / sum(each) if has_learnt(right, each) else 0.0,
        "clean_accuracy": sum(right) / sum(each),
    }


def _train_in_group(point: Point, job: TrialJob) -> None:
    """Train in a Ray Train worker group of this trial's own; anew where memory is short.

    Also anew where the group did not start: another trial may still hold the room.
    """
    group_size: int | None = None
    failed_starts = 0
    while True:
        try:
            return _fit_group(point, job, group_size, failed_starts)
        except MemoryShortError as short:
            group_size = short.group_size
        except Exception as problem:
            failed_starts += 1
            has_started = getattr(problem.__cause__, "controller_failure", None) is not problem
            if has_started or isinstance(problem, UserError) or failed_starts > MOST_FAILED_STARTS:
                raise


def _fit_group(point: Point, job: TrialJob, group_size: int | None, failed_starts: int) -> None:
    import ray.train
    import ray.tune
    from ray.tune.integration.ray_train import TuneReportCallback

    trial = ray.tune.get_context().get_trial_id()
    trainer = make_trainer(
        _group_worker,
        {"point": point, "job": job, "group_size": group_size},
        job.plan.workers,
        worker_resources(job.plan.cpus, job.gpus),
        job.scratch,
        name=f"train-{trial}-{group_size or 0}-{failed_starts}",
        callbacks=[TuneReportCallback()],
        # Ray itself would not look at what kept a group from its start.
        failure_config=ray.train.FailureConfig(controller_failure_limit=0),  # type: ignore[call-arg]
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as problem:
        cause = cause_of(problem)
        refuse_failed_setup(cause)
        raise cause from problem


def _group_worker(arguments: dict[str, Any]) -> None:
    """Run on every worker of a trial's group."""
    import ray.train

    job: TrialJob = arguments["job"]
    team, device = join_team(job.search_path, job.gpus)
    _train_here(arguments["point"], job, team, device, ray.train.report, arguments["group_size"])
