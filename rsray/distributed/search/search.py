"""Run the trials of a search on Ray Tune: who proposes, who stops, how many at a time.

Optuna proposes; each proposal depends on the seed, the trial's number and what has ended before,
so a search that was interrupted goes on as it would have. ASHA stops trials that are behind. Such
a trial is told to Optuna as PRUNED with the values of its looks: TPE then ranks it below every
complete trial, and among its like by how far it came and what it reached there. Told as complete,
its early value would be compared with final ones. With several objectives, or on a grid, no trial
is stopped: ASHA would judge by one objective, and a grid's table needs all of its cells. Nor are
the given settings, the published one first: the others are compared with what they reach.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import optuna
import ray.tune
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from rsray.config import TUNE_OBJECTIVES, TuneConfig
from rsray.distributed.search.space import GIVEN, distributions, most_epochs
from rsray.distributed.search.study import ended
from rsray.distributed.search.trial import TrialJob, run_trial, trial_config
from rsray.distributed.search.trial_resources import (
    DRIVER_CPU,
    cluster_nodes,
    gpus_per_worker,
    plan_trials,
)
from rsray.distributed.search.watch import Watcher
from rsray.distributed.session import quiet_logs, search_path
from rsray.progress import Watch
from rsray.storage import Place, open_filesystem

LOST_PROCESSES = 2  # times that a trial whose process or node was lost is run again
SCRATCH = ".ray"  # in TUNE while a search runs: a place that all nodes see


def run_search(config: TuneConfig, study: optuna.Study, out: Place, watch: Watch) -> None:
    """Run the trials that the study still lacks; what it holds is in its storage at any moment."""
    already = len(ended(study))
    missing = config.trials - already
    if missing <= 0:
        return
    quiet_logs()
    nodes = cluster_nodes()
    gpus = gpus_per_worker(config, nodes)
    plan = plan_trials(nodes, config, gpus, missing)
    scratch = out / SCRATCH
    filesystem, path = open_filesystem(scratch.uri)
    job = TrialJob(
        config,
        search_path(),
        threads=max(1, round(plan.cpus)),
        workers=plan.workers,
        resources={"CPU": plan.cpus, **({"GPU": gpus} if gpus else {})},
        scratch=scratch,
    )
    alone = plan.workers == 1
    searcher = StudySearcher(config, study)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(
            ray.tune.with_parameters(run_trial, job=job),
            {"CPU": plan.cpus if alone else DRIVER_CPU, "GPU": gpus if alone else 0},
        ),
        tune_config=ray.tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(config, searcher),
            num_samples=missing,
            max_concurrent_trials=plan.concurrent,
            reuse_actors=alone,
        ),
        run_config=ray.tune.RunConfig(
            name="search",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=LOST_PROCESSES),
            callbacks=[Watcher(config.trials, already, watch)],
        ),
    )
    out.delete(SCRATCH)
    try:
        tuner.fit()
    finally:
        out.delete(SCRATCH)


def _scheduler(config: TuneConfig, searcher: StudySearcher) -> Any:
    """Return ASHA, told of the looks at trials that ended before; nobody where none may stop."""
    if config.sampler == "grid" or len(config.objectives) > 1:
        return FIFOScheduler()
    looks = math.ceil(most_epochs(config) / config.report_every)
    asha = SparingAsha(
        searcher,
        metric=TUNE_OBJECTIVES[config.objectives[0]],
        mode="max",
        time_attr="look",
        max_t=looks + 1,
        grace_period=_grace_period(config, looks),
        reduction_factor=config.reduction,
    )
    nobody: Any = None  # the controller, which ASHA does not look at
    for trial in ended(searcher.study):
        earlier: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        asha.on_trial_add(nobody, earlier)
        for look, value in sorted(trial.intermediate_values.items()):
            asha.on_trial_result(nobody, earlier, {"look": look, asha.metric: value})
    return asha


def _grace_period(config: TuneConfig, looks: int) -> int:
    """Return the look from which on a trial may be stopped.

    A deferred MACER trains without its trade-off until the first learning-rate drop: looks before
    it tell nothing of what is searched.
    """
    train, earliest = trial_config(config, {}), 1
    if getattr(train.build_objective(), "deferred", False) and train.lr_drops:
        earliest = min(train.lr_drops) // config.report_every + 1
    return min(looks, max(earliest, looks // 4))


class SparingAsha(ASHAScheduler):  # type: ignore[misc]
    """ASHA that lets the given settings run to their end; they count at the rungs all the same."""

    def __init__(self, searcher: StudySearcher, **options: Any) -> None:
        super().__init__(**options)
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on after a look."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if self.searcher.is_given(trial.trial_id) else decision


class StudySearcher(Searcher):  # type: ignore[misc]
    """Lets Tune ask and tell an Optuna study whose storage is the record of the search.

    Ray's own OptunaSearch tells trials that were stopped early as complete, and leaves one that
    reports NaN running for good (rsray/distributed/README.md).
    """

    def __init__(self, config: TuneConfig, study: optuna.Study) -> None:
        super().__init__()
        self.config, self.study = config, study
        self.space = distributions(config.search)
        self.names = [TUNE_OBJECTIVES[name] for name in config.objectives]
        self.running: dict[str, optuna.Trial] = {}
        self.seen: dict[str, set[int]] = {}  # looks that the study holds already

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the settings of the next trial: one that waits, else a new proposal."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        number = waiting[0].number if waiting else len(self.study.get_trials(deepcopy=False))
        self.study.sampler = _sampler(self.config, number)
        trial = self.study.ask(self.space)
        if "source" not in trial.user_attrs:
            trial.set_user_attr("source", self.config.sampler)
        self.running[trial_id] = trial
        self.seen[trial_id] = set(waiting[0].intermediate_values) if waiting else set()
        return dict(trial.params)

    def is_given(self, trial_id: str) -> bool:
        """Tell whether a trial under way tries a setting that was given, not proposed."""
        trial = self.running.get(trial_id)
        return trial is not None and trial.user_attrs.get("source") in GIVEN

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a look; Optuna keeps none for several objectives."""
        look = result.get("look")
        if look is None or look in self.seen[trial_id] or len(self.names) > 1:
            return
        self.seen[trial_id].add(look)
        self.running[trial_id].report(result[self.names[0]], look)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record how a trial ended, and the look that stopped it: Tune tells that one here only."""
        result = result or {}
        values = [float(result.get(name, math.nan)) for name in self.names]
        problem = result.get("error")
        if problem is None and (error or not all(map(math.isfinite, values))):
            problem = f"its process was lost {LOST_PROCESSES + 1} times" if error else "no result"
        if problem is None:
            self.on_trial_result(trial_id, result)
        trial = self.running.pop(trial_id)
        if problem is not None:
            trial.set_user_attr("error", problem)
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for name in ("epoch", *TUNE_OBJECTIVES.values()):
            trial.set_user_attr(name, result[name])
        if result["epoch"] < result["epochs"]:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, values)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's storage is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study's storage is the record."""


def _sampler(config: TuneConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler for one proposal, with random numbers of its own."""
    seed = (config.seed * 1_000_003 + number) % 2**32
    if config.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    startup = min(10, config.trials // 3 + 1)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
