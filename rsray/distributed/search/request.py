"""What `rsray tune` is asked for: a search that could begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rsray import data
from rsray.config import CertifyConfig, TrainConfig, TuneConfig, check_names, objective_fields
from rsray.data import DATASETS, ImageSplit, selected
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.space import (
    SHARED,
    extreme_values,
    grid_points,
    objectives_of,
    parse_grid,
    parse_space,
    read_space,
    setting_of,
)
from rsray.errors import UserError
from rsray.models.factory import refuse_factory_of_a_file
from rsray.presets import fit_to_data, search_config, train_config
from rsray.storage import PathLike
from rsray.training.request import fitted_line, is_fit_to_data, read_settings, start_lines

# Of the training images; a look at more than so many images costs epochs.
VALIDATION_SHARE, MOST_VALIDATION_IMAGES = 0.15, 2_000
# At a trial that is not stopped.
LOOKS_PER_TRIAL = 8
# Of somebody's own pictures: a first search of minutes on two cores. More trials, and certificates
# of all test images (`rsray certify TUNE/best`), are for whoever likes what it found.
OWN_PICTURES = {"trials": 6, "num_draws": 64, "n": 2_000, "limit": 100, "compare": False}


class SearchRequest(NamedTuple):
    """A search that could begin."""

    config: TuneConfig
    train: ImageSplit
    num_test_images: int
    # Whether the data decided what the user left open (presets/own_pictures.py).
    is_fitted: bool = False

    def announcement(self, where: str) -> list[str]:
        """Return in lines what will be searched and certified."""
        search, config, base = resolve_search(self.config), self.config, self.config.train
        number = f"{config.trials} trials of up to {search.most_epochs} epochs"
        data = f"on {base.dataset}, sigma {base.sigma:g}"
        about, keys = f"{base.objective} {data}", ", ".join(config.search)
        lines = [f"searching {keys} of {search.objectives} {data}: {number} -> {where}"]
        lines += start_lines(base)
        if self.is_fitted:
            lines.append(fitted_line(base, self.train))
        elif not search.published:
            lines.append(f"no paper has a setting for {about}")
        elif search.why_untried and config.sampler != "grid":
            lines.append(f"the published setting is not among the trials: {search.why_untried}")
        if config.final:
            images = len(selected(self.num_test_images, 0, config.skip, config.limit))
            what = "the winner and what it is compared with" if config.compare else "the winner"
            each = CertifyConfig.model_fields["n0"].default + config.n
            draws = images * each * (1 + config.compare)
            lines.append(f"then certifying {what} on {images:,} test images: up to {draws:,} draws")
        return lines


def open_search(
    flat: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    search: list[str],
    grid: list[str],
    config_file: PathLike | None = None,
    download: bool = False,
) -> SearchRequest:
    """Return the search that settings describe; UserError for what is not allowed.

    `flat` are training and objective settings, `own` those of the search. They override those of a
    file (tune.yaml, or a training run's); the data set decides what is left open.
    """
    if search and grid:
        raise UserError("give --search or --grid, not both")
    file = _of_file(config_file, search, grid)
    _refuse_factories(file, str(config_file), flat.get("model"), searches=not (search or grid))
    if not file and "dataset" not in flat and "preset" not in flat:
        raise UserError("give --dataset, --preset or --config")
    given = dict(flat)
    preset, start = given.pop("preset", None), file.pop("train", None)
    if preset is not None and start is not None:
        raise UserError("give --config or --preset, not both")
    names = _searched_objectives(search or grid, file.get("search", {}), preset)
    first = (start or {}).get("objective")
    usual = _settings_for(given, first if first in names else next(iter(names), None), names)
    base = search_config(usual, preset_name=preset, base=start)
    if base.build_objective().makes_images:
        raise UserError(f"objective {base.objective} trains no classifier: nothing to search for")
    train, num_test_images = _open_data(base, download)
    is_fitted = is_fit_to_data(base, usual, start)
    if is_fitted:
        base = fit_to_data(base, usual, train, start)
    images = min(len(train), base.limit or len(train))
    space = dict(file.pop("search", {}))
    if search or grid or not space:
        parse = parse_grid if grid else parse_space
        space = parse(grid or search, base.objective, given)
    known = file.pop("starts", {})
    starts = {
        name: _start_beside(base, start, _settings_for(given, name, names), known.get(name), train)
        for name in names
        if name != base.objective
    }
    sampler = {"sampler": "grid"} if grid else {}
    chosen = {**file, **own, "seed": base.seed, **sampler}
    if chosen.get("workers") is not None:
        # In the place of a range, too, though it begins with the same number.
        given = {"workers": chosen["workers"], "most_workers": None}
        base = TrainConfig.make({**base.model_dump(), **given})
    defaults = search_defaults(base, images, chosen.get("trial_epochs"), space)
    if chosen.get("sampler") == "grid":
        defaults["trials"] = len(grid_points(read_space(space)))
    config = TuneConfig.make(
        {"train": base, "starts": starts, "search": space, **defaults, **chosen}
    )
    return SearchRequest(config, train, num_test_images, is_fitted)


def _searched_objectives(
    texts: list[str], specs: Mapping[str, str], preset: str | None
) -> list[str]:
    """Return the objectives that are searched, none where there is one alone."""
    if texts:
        found = {key.strip(): spec for key, _, spec in (text.partition("=") for text in texts)}
        spec = found.get("objective")
        # --grid has the choices alone.
        specs = {} if spec is None else {"objective": spec if "(" in spec else f"choice({spec})"}
    names = objectives_of(specs)
    if names and preset is not None:
        raise UserError(f"preset {preset} is of one objective, but {', '.join(names)} are searched")
    return names


def _settings_for(
    given: Mapping[str, Any], objective: str | None, names: list[str]
) -> dict[str, Any]:
    """Return those of the given settings that an objective of the searched ones has."""
    if objective is None:
        return dict(given)
    has = {name: {*TrainConfig.model_fields, *objective_fields(name)} for name in names}
    check_names(given, sorted(set().union(*has.values())), f"objective {' or '.join(names)}")
    found = {key: value for key, value in given.items() if key in has[objective]}
    return {**found, "objective": objective}


def _start_beside(
    base: TrainConfig,
    of_file: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    known: Mapping[str, Any] | None,
    train: ImageSplit,
) -> dict[str, Any]:
    """Return what trials of another objective start from, over `base`: by itself the published.

    The epochs are the same for all: they are what trials are compared at. Data, sigma, seed and
    network are those of the file that the search starts from (`of_file`, its training settings).
    """
    if known is not None and of_file is not None:
        before = train_config({**known, "objective": given["objective"]}, base=dict(of_file))
        start = train_config(dict(given), base=before.model_dump())
    else:
        same = {"model", "model_args", *SHARED} - {"settings", "preset"} if of_file else set()
        flat = {**base.model_dump(include=same), "epochs": base.epochs, **given}
        start = search_config(flat)
        if is_fit_to_data(start, flat):
            start = fit_to_data(start, flat, train)
    mine, shared = start.model_dump(mode="json"), base.model_dump(mode="json")
    own = {*TrainConfig.where_fields, "settings", "objective"}
    differing = {k: v for k, v in mine.items() if k not in own and v != shared[k]}
    return {**differing, **mine["settings"]}


def _of_file(config_file: PathLike | None, search: list[str], grid: list[str]) -> dict[str, Any]:
    """Return a tune.yaml's settings; those of a training run stand under `train`.

    What belongs to the file's own space is left out where another is given: a grid's sampler and
    the number of its cells, and the epochs of trials where these vary.
    """
    if config_file is None:
        return {}
    values = read_settings(config_file)
    found = dict(values if "train" in values else {"train": values})
    for part in ("train", "search", "starts"):
        if not isinstance(found.get(part, {}), Mapping):
            raise UserError(f"{config_file}: {part} holds no settings (key: value lines)")
    if not all(isinstance(start, Mapping) for start in found.get("starts", {}).values()):
        raise UserError(f"{config_file}: starts holds no settings of objectives")
    left_out: tuple[str, ...] = ()
    if grid or (search and found.get("sampler") == "grid"):
        left_out += ("sampler", "trials")
    if any(text.partition("=")[0].strip() == "epochs" for text in search or grid):
        left_out += ("trial_epochs", "report_every")
    return {key: value for key, value in found.items() if key not in left_out}


def _refuse_factories(file: Mapping[str, Any], where: str, named: object, searches: bool) -> None:
    """Raise UserError for a factory that a file alone names: to start from, or to search."""
    starts = [file.get("train", {}), *file.get("starts", {}).values()]
    for model in (start.get("model") for start in starts):
        refuse_factory_of_a_file(model, where, named)
    for key, spec in file.get("search", {}).items() if searches else ():
        if setting_of(str(key)) == "model":
            for model in extreme_values(read_space({key: str(spec)})[key]):
                refuse_factory_of_a_file(model, where, None, f"--search '{key}={spec}' for")


def _open_data(base: TrainConfig, download: bool) -> tuple[ImageSplit, int]:
    """Return the images to train on, and how many there are to test.

    A missing data set is an error now, not after hours.
    """
    splits = {
        name: data.open_split(base.dataset, name, base.data_root, download=download, **base.reading)
        for name in ("train", "test")
    }
    return splits["train"], len(splits["test"])


def search_defaults(
    train: TrainConfig, images: int, trial_epochs: int | None, space: Mapping[str, str]
) -> dict[str, Any]:
    """Return fields of TuneConfig for a run on so many training images.

    A trial has as many epochs as the run, or the fewer that its data set says, unless the space
    varies them.
    """
    spec = DATASETS[train.dataset]
    usual = OWN_PICTURES if spec.is_own else spec.search
    found: dict[str, Any] = {"skip": spec.skip, **usual}
    if trial_epochs is None and spec.shorter_trials > 1 and "epochs" not in space:
        # Of one epoch there is no learning-rate drop, which objectives may wait for.
        trial_epochs = min(train.epochs, max(2, -(-train.epochs // spec.shorter_trials)))
        found["trial_epochs"] = trial_epochs
    looks = LOOKS_PER_TRIAL // 2 if spec.is_own or spec.embedded else LOOKS_PER_TRIAL
    longest = trial_epochs or train.epochs
    if "epochs" in space:
        longest = max(int(value) for value in extreme_values(read_space(space)["epochs"]))
    found["report_every"] = max(1, longest // looks)
    found["validation"] = min(VALIDATION_SHARE, round(MOST_VALIDATION_IMAGES / images, 6))
    return found
