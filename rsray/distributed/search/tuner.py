"""A search from start to end: trials, the winner, its certificates beside the paper's, the page."""

from __future__ import annotations

from pydantic import TypeAdapter

from rsray.config import Precision, TuneConfig
from rsray.data import ImageSplit
from rsray.data.fingerprint import fingerprint
from rsray.distributed.search.resolved_search import (
    TUNE_FILE,
    Search,
    check_data,
    check_search,
    read_own_search,
    resolve_search,
)
from rsray.distributed.search.search import run_search
from rsray.distributed.search.study import find_winner, open_study, write_trials
from rsray.distributed.search.study_page import write_page, write_study
from rsray.distributed.search.trial_resources import may_have_groups, nodes_for, settle_on_cluster
from rsray.distributed.search.winner import Finals, train_and_certify
from rsray.distributed.session import session
from rsray.distributed.train.training_run import may_stream
from rsray.progress import Watch
from rsray.storage import Place
from rsray.storage.ownership import write_own_record
from rsray.storage.records import read_as
from rsray.storage.yaml_files import from_yaml, to_yaml
from rsray.training.earlier_run import warn_if_judged_by_seen_images
from rsray.training.run_folder.run import (
    open_training_split,
    recorded_results,
)
from rsray.versions import versions

BEST_FILE = "best.yaml"
_PRECISION: TypeAdapter[Precision | None] = TypeAdapter(Precision | None)


def tune(
    config: TuneConfig, out: Place, *, address: str | None = None, watch: Watch | None = None
) -> Finals:
    """Search, then train and certify the winner and the paper's setting; returns their summaries.

    TUNE is complete when this returns. Trials, training and certification that TUNE already holds
    are not repeated. Raises UserError when TUNE belongs to another search or every trial failed.
    """
    watch = watch or Watch()
    search = claim_tune(out, config)
    # Groups of workers inside trials leak their resources where Ray has no dashboard.
    opened = session(address, dashboard=may_have_groups(search), streams=may_stream(config.train))
    with out.locked(), opened:
        warn_if_judged_by_seen_images(search.trial(bare) for bare in search.bare_points)
        watch.phase("search")
        search = settle_on_cluster(search, nodes_for(search), _recorded_precision(out))
        study = open_study(out, search)
        run_search(search, study, out, watch)
        write_trials(out, study, search)
        write_study(out, study, search)
        best = search.full(find_winner(study).params)
        out.write(BEST_FILE, to_yaml(best.model_dump(mode="json")))
        finals = train_and_certify(search, best, out, address, watch)
        write_page(out, study, search)
        return finals


def claim_tune(out: Place, config: TuneConfig, split: ImageSplit | None = None) -> Search:
    """Make TUNE this search's own, and return it; UserError when it cannot be, or cannot be run.

    `split` holds the images to train on, where they are open already.
    """
    search = resolve_search(config)
    check_search(search)
    split = split or open_training_split(config.train)
    record = read_own_search(out, search, split)
    if record is not None:
        if record.get("trials") != config.trials:
            # Not under a search that runs: it ends with its own.
            with out.locked():
                out.write(TUNE_FILE, to_yaml({**record, "trials": config.trials}))
        return search
    results = recorded_results(*search.full_starts)
    check_data(search, split)
    images = {"data_fingerprint": fingerprint(split, sampled=False)}
    record = {**config.model_dump(mode="json"), **images, **results, "versions": versions()}
    write_own_record(out, TUNE_FILE, to_yaml(record), lambda: read_own_search(out, search, split))
    return search


def _recorded_precision(out: Place) -> str | None:
    """Return the precision of the winner that an earlier start has found, if it has."""
    if not out.is_file(BEST_FILE):
        return None
    name = f"{out}/{BEST_FILE}"
    found = from_yaml(out.read(BEST_FILE), name).get("precision")
    return read_as(_PRECISION, found, f"{name}: precision")
