"""A search from start to end: trials, the winner, its certificates beside the paper's, the page."""

from __future__ import annotations

from rsray.config import TrainConfig, TuneConfig, to_yaml
from rsray.errors import UserError
from rsray.fleet.room import cluster_nodes, may_have_groups, with_workers
from rsray.fleet.search import run_search
from rsray.fleet.session import session
from rsray.fleet.study import first_points, open_study, winner, write_trials
from rsray.fleet.study_page import write_page, write_study
from rsray.fleet.watch import Watch
from rsray.fleet.winner import Finals, full_config, train_and_certify
from rsray.ownership import recorded
from rsray.storage import Folder
from rsray.versions import versions

TUNE_FILE, BEST = "tune.yaml", "best.yaml"


def tune(
    config: TuneConfig, out: Folder, *, address: str | None = None, watch: Watch | None = None
) -> Finals:
    """Search, then train and certify the winner and the paper's setting; returns their summaries.

    TUNE is complete when this returns. Trials, training and certification that TUNE already holds
    are not repeated. Raises UserError when TUNE belongs to another search or every trial failed.
    """
    watch = watch or Watch()
    claim_tune(out, config)
    # Groups of workers inside trials leak their resources where Ray has no dashboard.
    with out.locked(), session(address, dashboard=may_have_groups(config)):
        watch.phase("search")
        config = with_workers(config, cluster_nodes())
        study = open_study(out, config)
        run_search(config, study, out, watch)
        write_trials(out, study, config)
        best = full_config(config, winner(study).params)
        out.write(BEST, to_yaml(_portable(best)))
        write_study(out, study, config)
        finals = train_and_certify(config, best, out, address, watch)
        write_page(out, study, config)
        return finals


def _portable(best: TrainConfig) -> dict[str, object]:
    """Return what trains the winner anywhere: not how many workers this cluster gave it."""
    return best.model_dump(mode="json", exclude={"workers", "most_workers", "gpus_per_worker"})


def claim_tune(out: Folder, config: TuneConfig) -> None:
    """Make TUNE this search's own; UserError when it belongs to another."""
    for point, _ in first_points(config):  # a value that the objective refuses: now, not in trials
        full_config(config, point)
    if config.sampler == "grid" and len(first_points(config)) != config.trials:
        raise UserError(f"trials is {config.trials}: the grid has {len(first_points(config))}")
    if recorded(out, TUNE_FILE, config, "search") is None:
        record = {**config.model_dump(mode="json"), "versions": versions()}
        out.make().write(TUNE_FILE, to_yaml(record))
