"""Run the trials of a search on Ray Tune: who proposes, who stops, how many at a time.

Optuna proposes settings with TPE (tree-structured Parzen estimators: near the best so far). Each
proposal depends on the seed, the trial's number and what has ended before, so a search that was
interrupted goes on as it would have. ASHA (asynchronous successive halving) stops trials that are
behind the others at a look, a rung. Such a trial is told to Optuna as PRUNED with the values of its
looks: TPE then ranks it below every complete trial, and among its like by how far it came and what
it reached there. Told as complete, its early value would be compared with final ones.

No trial is stopped where there are several objectives, as ASHA would judge by one, or on a grid,
whose table needs all of its cells. Nor are the given settings, the published one first: the others
are compared with what they reach.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import optuna
import ray.tune
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from rsray.config import TUNE_OBJECTIVES, TuneConfig
from rsray.distributed.search.forecast import forecast
from rsray.distributed.search.resolved_search import GIVEN, Search
from rsray.distributed.search.space import Space, active
from rsray.distributed.search.study import ended_trials
from rsray.distributed.search.trial import TrialJob, run_trial
from rsray.distributed.search.trial_resources import DRIVER_CPUS, TrialPlan, plan_trials
from rsray.distributed.search.watch import METRIC, Watcher
from rsray.distributed.session import quiet_logs, search_path
from rsray.progress import Watch
from rsray.storage import Place, open_filesystem

log = logging.getLogger(__name__)
# A trial whose process or node was lost is run again so often.
MOST_RERUNS_OF_LOST_TRIALS = 2
# In TUNE while a search runs: a folder that all nodes see.
SCRATCH_FOLDER = ".ray"
# TPE proposes at random until so many trials have ended, or a third of them.
MOST_RANDOM_TRIALS = 10


def run_search(search: Search, study: optuna.Study, out: Place, watch: Watch) -> None:
    """Run the trials that the study still lacks; what it holds is in its storage at any moment."""
    already = len(ended_trials(study))
    missing = search.config.trials - already
    if missing <= 0:
        return
    quiet_logs()
    plan = plan_trials(search, missing)
    _say_how_long(search, plan, missing, watch)
    job = TrialJob(search, plan, search_path(), out / SCRATCH_FOLDER)
    # A trial's own process needs little where its workers are elsewhere.
    cpus, gpus = (DRIVER_CPUS, 0.0) if plan.workers > 1 else (plan.cpus, search.gpus_per_worker)
    trial = ray.tune.with_parameters(run_trial, job=job)
    searcher = StudySearcher(search, study)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trial, {"CPU": cpus, "GPU": gpus}),
        tune_config=ray.tune.TuneConfig(
            search_alg=searcher,
            scheduler=_make_scheduler(search, searcher),
            num_samples=missing,
            max_concurrent_trials=plan.concurrent,
            reuse_actors=plan.workers == 1,
        ),
        run_config=_run_config(
            job.scratch, Watcher(search.config.trials, already, watch, searcher)
        ),
    )
    out.delete(SCRATCH_FOLDER)
    try:
        with _callbacks_untold():
            tuner.fit()
    finally:
        out.delete(SCRATCH_FOLDER)


@contextmanager
def _callbacks_untold() -> Iterator[None]:
    """Keep Ray from importing every tracker that is installed, to count which ones are used.

    MLflow takes four seconds of each search, and looks into the current folder, which Ray makes
    anew where two of a cluster's nodes are one machine.
    """
    from ray.air._internal import usage

    known = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = known


def _say_how_long(search: Search, plan: TrialPlan, missing: int, watch: Watch) -> None:
    try:
        watch.say(forecast(search, plan, missing).line(plan, missing))
    except Exception as problem:
        # What cannot be trained at all fails in a trial, which is recorded with its reason.
        log.info("no forecast of the search: %s", problem)


def _run_config(scratch: Place, watcher: Watcher) -> ray.tune.RunConfig:
    filesystem, path = open_filesystem(scratch.uri)
    return ray.tune.RunConfig(
        name="search",
        storage_path=path,
        storage_filesystem=filesystem,
        verbose=0,
        failure_config=ray.tune.FailureConfig(max_failures=MOST_RERUNS_OF_LOST_TRIALS),
        callbacks=[watcher],
    )


def _make_scheduler(search: Search, searcher: StudySearcher) -> Any:
    """Return ASHA, told of the looks at trials that ended before; nobody where none may stop."""
    config = search.config
    if config.sampler == "grid" or len(search.metrics) > 1:
        return FIFOScheduler()
    looks = math.ceil(search.most_epochs / config.report_every)
    asha = SparingAsha(
        searcher,
        metric=search.metrics[0],
        mode="max",
        time_attr="look",
        max_t=looks + 1,
        grace_period=_first_rung(search, looks),
        reduction_factor=config.reduction,
    )
    # The controller, which ASHA does not look at.
    nobody: Any = None
    for trial in ended_trials(searcher.study):
        earlier: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        asha.on_trial_add(nobody, earlier)
        for look, value in sorted(trial.intermediate_values.items()):
            asha.on_trial_result(nobody, earlier, {"look": look, asha.metric: value})
    return asha


def _first_rung(search: Search, looks: int) -> int:
    """Return the look from which on a trial may be stopped.

    A deferred MACER trains without its trade-off until the first learning-rate drop, and Easy is
    cross entropy until its warm-up ends: looks before that tell nothing of what is searched.
    """
    earliest = 1
    for train in map(search.trial, search.bare_points):
        objective = train.build_objective()
        acts_from = objective.acts_from
        if getattr(objective, "deferred", False) and train.lr_drops:
            acts_from = min(train.lr_drops)
        earliest = max(earliest, acts_from // search.config.report_every + 1)
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

    def __init__(self, search: Search, study: optuna.Study) -> None:
        super().__init__()
        self.search, self.study = search, study
        self.running: dict[str, optuna.Trial] = {}
        # The looks that the study holds already.
        self.seen: dict[str, set[int]] = {}
        # What the study calls each trial, ended or not.
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the settings of the next trial: one that waits, else a new proposal."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        number = waiting[0].number if waiting else len(self.study.get_trials(deepcopy=False))
        self.study.sampler = _make_sampler(self.search.config, number)
        trial = _ask(self.study, self.search.space)
        if "source" not in trial.user_attrs:
            trial.set_user_attr("source", self.search.config.sampler)
        self.running[trial_id], self.numbers[trial_id] = trial, trial.number
        self.seen[trial_id] = set(waiting[0].intermediate_values) if waiting else set()
        return dict(trial.params)

    def number_of(self, trial_id: str) -> int | None:
        """Return the number under which the study and trials.parquet have a trial of Tune's."""
        return self.numbers.get(trial_id)

    def best_acr(self) -> float | None:
        """Return the largest projected ACR of the complete trials, None before there is one."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        found = [trial.user_attrs.get(METRIC) for trial in complete]
        return max((acr for acr in found if acr is not None), default=None)

    def is_given(self, trial_id: str) -> bool:
        """Tell whether a trial under way tries a setting that was given, not proposed."""
        trial = self.running.get(trial_id)
        return trial is not None and trial.user_attrs.get("source") in GIVEN

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a look; Optuna keeps none for several objectives."""
        look = result.get("look")
        if look is None or look in self.seen[trial_id] or len(self.search.metrics) > 1:
            return
        self.seen[trial_id].add(look)
        self.running[trial_id].report(result[self.search.metrics[0]], look)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record how a trial ended, and the look that stopped it: Tune tells that one here only."""
        result = result or {}
        values = [float(result.get(name, math.nan)) for name in self.search.metrics]
        problem = result.get("error")
        if problem is None and error:
            problem = f"its process was lost {MOST_RERUNS_OF_LOST_TRIALS + 1} times"
        elif problem is None and not all(map(math.isfinite, values)):
            problem = "no result"
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


def _ask(study: optuna.Study, space: Space) -> optuna.Trial:
    """Return the next trial; of several objectives it has one, and the settings of that alone."""
    if "objective" not in space:
        return study.ask(space)
    trial = study.ask({"objective": space["objective"]})
    for key, distribution in active(space, trial.params["objective"]).items():
        if isinstance(distribution, CategoricalDistribution):
            trial.suggest_categorical(key, distribution.choices)
        elif isinstance(distribution, IntDistribution):
            trial.suggest_int(key, distribution.low, distribution.high)
        elif isinstance(distribution, FloatDistribution):
            trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
    return trial


def _make_sampler(config: TuneConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler for one proposal, with random numbers of its own."""
    seed = (config.seed * 1_000_003 + number) % 2**32
    if config.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    startup = min(MOST_RANDOM_TRIALS, config.trials // 3 + 1)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
