"""Ray Tune with Optuna: a search for the objective settings with the largest projected ACR.

The Optuna study in TUNE/study.journal is the durable record: a search that is started again with
the same folder counts its finished trials from there and runs those that are missing.
"""

from __future__ import annotations

import tempfile
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from rsray.certification.source import ClassifierSource, open_source
from rsray.config import CertifyConfig, TrainConfig, TuneConfig, from_yaml, nest, to_yaml
from rsray.core.hardware import resolve_precision
from rsray.data import open_split
from rsray.errors import UserError
from rsray.fleet.certifier import certify, selected_images
from rsray.fleet.session import (
    cluster_cpus,
    cluster_gpus,
    extend_search_path,
    quiet_logs,
    search_path,
    session,
)
from rsray.fleet.space import distributions, first_point
from rsray.fleet.trainer import train
from rsray.fleet.watch import METRIC, Watch, Watcher
from rsray.storage import Folder
from rsray.training.loop import Training
from rsray.training.run import open_training_split
from rsray.versions import versions

STUDY, STUDY_FILE, TUNE_FILE, TRIALS, BEST = (
    "rsray",
    "study.journal",
    "tune.yaml",
    "trials.parquet",
    "best.yaml",
)
KILLED = "killed"  # marks trials that died with an earlier start: they are run again


def tune(
    config: TuneConfig, out: Folder, *, address: str | None = None, watch: Watch | None = None
) -> dict[str, Any]:
    """Search, retrain the winner on all training images, certify it; returns the summary.

    TUNE is complete when this returns. Trials, training and certification that TUNE already holds
    are not repeated. Raises UserError when TUNE belongs to another search or every trial failed.
    """
    watch = watch or Watch()
    claim_tune(out, config)
    with out.locked(), session(address):
        watch.phase("search")
        study = _open_study(out)
        _search(config, study, watch)
        write_trials(out, study)
        best = best_config(config, study)
        out.write(
            BEST, to_yaml(best.model_dump(mode="json", exclude={"workers", "gpus_per_worker"}))
        )
        watch.phase("train")
        run = out / "best"
        train(best, run, open_training_split(best), address=address, on_progress=watch.training)
        watch.phase("certify")
        return _certify_best(config, best, run, watch)


def claim_tune(out: Folder, config: TuneConfig) -> None:
    """Make TUNE this search's own; UserError when it belongs to another."""
    if not out.is_local:
        raise UserError(f"{out}: a search's study needs a local or shared folder for --out")
    if out.is_file():
        raise UserError(f"{out} is a file: --out needs a folder")
    if out.exists(TUNE_FILE):
        differences = config.differences(from_yaml(out.read(TUNE_FILE), f"{out}/{TUNE_FILE}"))
        if differences:
            raise UserError(
                f"{out} belongs to another search: {'; '.join(differences[:3])}; use another --out"
            )
        return
    if [name for name in out.names() if not name.startswith(".")]:
        raise UserError(f"{out} is not empty and is no search; use another --out")
    out.make().write(TUNE_FILE, to_yaml({**config.model_dump(mode="json"), "versions": versions()}))


def _open_study(out: Folder) -> optuna.Study:
    """Open the study; trials that were running when an earlier start died are marked as failed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(out.local_path / STUDY_FILE)))
    study = optuna.create_study(
        storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True
    )
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)):
        storage.set_trial_user_attr(trial._trial_id, KILLED, True)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    return study


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that a search need not repeat: completed, or failed by their own fault."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
    return [trial for trial in ended if KILLED not in trial.user_attrs]


def _search(config: TuneConfig, study: optuna.Study, watch: Watch) -> None:
    missing = config.trials - len(_finished(study))
    if missing <= 0:
        return
    import ray.tune
    from ray.tune.schedulers import ASHAScheduler

    quiet_logs()
    gpus = float(cluster_gpus() > 0)
    slots = int(cluster_gpus()) if gpus else cluster_cpus()
    concurrent = min(config.concurrent or slots, missing)
    cpus = max(1, cluster_cpus() // concurrent)
    job = {
        "config": config,
        "threads": cpus,
        "search_path": search_path(),
    }
    reports = max(1, config.train.epochs // config.report_every)
    with tempfile.TemporaryDirectory(prefix="rsray-tune-") as scratch:
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(
                ray.tune.with_parameters(_trial, job=job), {"CPU": cpus, "GPU": gpus}
            ),
            tune_config=ray.tune.TuneConfig(
                search_alg=_searcher(config, study),
                scheduler=ASHAScheduler(
                    metric=METRIC,
                    mode="max",
                    time_attr="training_iteration",
                    max_t=reports + 1,
                    grace_period=max(1, reports // 4),
                    reduction_factor=config.reduction,
                ),
                num_samples=missing,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
            ),
            run_config=ray.tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                callbacks=[Watcher(config.trials, len(_finished(study)), watch)],
            ),
        )
        tuner.fit()


def _searcher(config: TuneConfig, study: optuna.Study) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    space = distributions(config.search)
    start = first_point(space, {**config.train.model_dump(), **config.train.settings})
    was_tried = any(trial.params == start for trial in _finished(study))
    # A search that continues gets other numbers than its first part, not the same again.
    seed = config.seed + len(study.get_trials())
    return OptunaSearch(
        dict(space),
        metric=METRIC,
        mode="max",
        points_to_evaluate=[start] if start and not was_tried else None,
        sampler=optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=min(10, config.trials // 3 + 1)
        ),
        study_name=STUDY,
        storage=study._storage,
    )


def trial_config(config: TuneConfig, params: dict[str, Any]) -> TrainConfig:
    """Return the training configuration of a trial."""
    flat = {**params, "validation": config.validation}
    return TrainConfig.make(nest(flat, config.train.model_dump())).resolved()


def _trial(params: dict[str, Any], job: dict[str, Any]) -> None:
    """Train one setting in a Tune worker and report its projected ACR every few epochs."""
    import ray.tune

    torch.set_num_threads(job["threads"])
    extend_search_path(job["search_path"])
    config: TuneConfig = job["config"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(trial_config(config, params), None, device)

    def report(row: dict[str, Any]) -> None:
        done = row["epoch"] + 1
        if done % config.report_every and done != config.train.epochs:
            return
        projection = training.project(config.num_draws)
        ray.tune.report(
            {
                METRIC: projection.acr,
                "accuracy": projection.accuracy,
                "epoch": done,
                "loss": row["loss"],
            }
        )

    training.run_epochs(report)


def best_config(config: TuneConfig, study: optuna.Study) -> TrainConfig:
    """Return the winner's configuration, to be trained on all training images."""
    completed = study.get_trials(states=(TrialState.COMPLETE,))
    if not completed:
        raise UserError("every trial of the search failed; run one with rsray train to see why")
    values = nest(study.best_trial.params, config.train.model_dump())
    return TrainConfig.make(values).resolved()


def write_trials(out: Folder, study: optuna.Study) -> None:
    """Write trials.parquet: a row per trial with its settings, result and cost."""
    trials = study.get_trials(deepcopy=False)
    keys = sorted({key for trial in trials for key in trial.params})
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            METRIC: trial.value if trial.state == TrialState.COMPLETE else None,
            "reports": len(trial.intermediate_values),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            **{key: trial.params.get(key) for key in keys},
        }
        for trial in trials
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    out.write(TRIALS, sink.getvalue().to_pybytes())


def _certify_best(
    config: TuneConfig, best: TrainConfig, run: Folder, watch: Watch
) -> dict[str, Any]:
    source = open_source(str(run))
    split = open_split(best.dataset, "test", best.data_root, image_size=best.image_size)
    wanted = certify_config(config, best, source, split.num_classes)
    return certify(
        wanted,
        run / "certificates",
        source,
        split,
        selected_images(wanted, split),
        on_progress=watch.certifying,
    )


def certify_config(
    config: TuneConfig, best: TrainConfig, source: ClassifierSource, num_classes: int
) -> CertifyConfig:
    """Return how the winner is certified."""
    device = torch.device("cuda" if cluster_gpus() > 0 else "cpu")
    return CertifyConfig.make(
        {
            "source": source.where,
            "model_digest": source.digest,
            "dataset": best.dataset,
            "data_root": best.data_root,
            "image_size": best.image_size,
            "model": best.model,
            "num_classes": num_classes,
            "sigma": best.sigma,
            "n": config.n,
            "skip": config.skip,
            "limit": config.limit,
            "seed": config.seed,
            "precision": resolve_precision(best.precision, device),
        }
    )
