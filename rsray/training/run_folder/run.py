"""A RUN folder: claimed by one configuration, and what it records of it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from torch import nn

from rsray import models
from rsray.config import Precision, TrainConfig
from rsray.core.hardware import resolve_precision
from rsray.core.independence import as_images_for
from rsray.data import DATASETS, ImageSplit, open_split
from rsray.data.fingerprint import FingerprintRecord, fingerprint, is_same
from rsray.data.splits import subset, train_validation
from rsray.errors import UserError
from rsray.family import choose
from rsray.models.normalise import normalisation_in_training
from rsray.objectives import OBJECTIVES
from rsray.storage import Place, one_line
from rsray.storage.ownership import read_own_record, write_own_record
from rsray.storage.records import from_json, read_as
from rsray.storage.yaml_files import from_yaml, to_yaml
from rsray.training.batches.augment import AUGMENTATIONS
from rsray.training.batches.feeds import is_streamed, refuse_to_weigh_streamed
from rsray.training.batches.reader import RESIZED_CROP, RandomResizedCrop, with_crop
from rsray.training.earlier_run import companion_of, digest_of, start_weights
from rsray.training.optimisation import what_never_acts
from rsray.training.teacher import targets_of
from rsray.versions import versions

log = logging.getLogger(__name__)
Indices = NDArray[np.int64]
RUN_FILE, WEIGHTS_FILE, GROUP_SIZE_FILE = "run.yaml", "model.safetensors", ".group-size"
_PRECISION: TypeAdapter[Precision | None] = TypeAdapter(Precision | None)
_COMPILED: TypeAdapter[bool | None] = TypeAdapter(Annotated[bool, Field(strict=True)] | None)
_EARLIER_RESULTS: TypeAdapter[dict[str, str] | None] = TypeAdapter(dict[str, str] | None)
_GROUP_SIZE: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(strict=True, ge=1)])


def open_training_split(config: TrainConfig) -> ImageSplit:
    """Return the training split that a configuration names."""
    return open_split(config.dataset, "train", config.data_root, **config.reading)


def images_of(config: TrainConfig, split: ImageSplit) -> tuple[Indices, Indices]:
    """Return the indices in the split of the images that are trained on, and of those held out."""
    chosen = subset(len(split), config.limit, config.seed)
    parts = train_validation(split.labels[chosen], config.validation, config.seed)
    return chosen[parts[0]], chosen[parts[1]]


def build_model(config: TrainConfig, split: ImageSplit) -> nn.Module:
    """Return the untrained model for the split's images; UserError if it does not fit them."""
    model = models.build(
        config.model,
        image_shape=split.image_shape,
        num_classes=split.num_classes,
        statistics=DATASETS[config.dataset].statistics,
        arguments=config.model_args,
    )
    if OBJECTIVES[config.objective].makes_images:
        models.check_denoiser(model, split.image_shape)
    else:
        models.check(model, split.image_shape, split.num_classes)
    return model


def check_settings(config: TrainConfig, split: ImageSplit, device: torch.device) -> None:
    """Raise UserError for settings that only show when training begins: before RUN is claimed."""
    resolve_precision(config.precision, device)
    check_fit(config, split)
    targets_of(config.build_objective(), split, images_of(config, split)[0], warn=True)
    for why in what_never_acts(config):
        log.warning("%s", why)


def check_fit(config: TrainConfig, split: ImageSplit) -> None:
    """Raise UserError for settings that do not fit the images, or one another."""
    if config.augmentation is not None:
        choose(config.augmentation, AUGMENTATIONS, "augmentation")
    if config.augmentation == RESIZED_CROP and with_crop(split, RandomResizedCrop(0, 0)) is split:
        raise UserError(
            f"augmentation {RESIZED_CROP} cuts from full-size pictures, which {config.dataset} "
            "does not have here: choose none, affine or crop-flip"
        )
    least = min(config.batch_size, len(split), config.limit or len(split))
    most = max(config.workers, config.most_workers or 1)
    if least < most:
        raise UserError(
            f"workers is {most}: a batch of {least} images has none for some of them; at most "
            f"{least} workers"
        )
    objective = config.build_objective()
    if objective.why_unused:
        raise UserError(f"objective {config.objective}: {objective.why_unused}")
    model, (held_in, _) = build_model(config, split), images_of(config, split)
    if ":" in config.model:
        again = build_model(config, split)
        models.check_made_alike(model, again, config.model, split.image_shape)
    start_weights(model, config, split)
    companion_of(objective, split)
    _check_steps_of_one_copy(model, config, split, len(held_in))
    augmentation = config.augmentation or DATASETS[config.dataset].augmentation
    if is_streamed(split, min(len(split), config.limit or len(split)), augmentation):
        refuse_to_weigh_streamed(objective)


def _check_steps_of_one_copy(
    model: nn.Module, config: TrainConfig, split: ImageSplit, num_images: int
) -> None:
    """Raise UserError where a worker has one copy of one image in a step, which the model refuses.

    Batch norm with one position does: it has no statistics.
    """
    batches = {min(config.batch_size, num_images), num_images % config.batch_size}
    # No workers: this process trains.
    fewest = config.workers or 1
    workers = range(fewest, (config.most_workers or fewest) + 1)
    # A batch of fewer images than workers is left out.
    shares = {batch // count for batch in batches for count in workers}
    if 1 not in shares or config.build_objective().num_draws > 1:
        return
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(model).train()(as_images_for(model, torch.zeros(1, *split.image_shape)))
    except ValueError as problem:
        raise UserError(
            f"batch_size is {config.batch_size}: of {num_images:,} images a worker would have a "
            f"single one in some step, and the network refuses that: {one_line(problem)}; choose "
            "another"
        ) from problem


def recorded_precision(run: Place) -> str | None:
    """Return the precision that run.yaml holds, or None while there is none."""
    return read_as(_PRECISION, _read_record(run).get("precision"), f"{run}/{RUN_FILE}: precision")


def recorded_compilation(run: Place) -> bool | None:
    """Return whether run.yaml says that the network is compiled, or None while it does not."""
    return read_as(_COMPILED, _read_record(run).get("compiled"), f"{run}/{RUN_FILE}: compiled")


def why_not_compiled(run: Place) -> str | None:
    """Return why the network of a run could not be compiled, in a line, or None."""
    why = _read_record(run).get("why_not_compiled")
    return why if isinstance(why, str) else None


def record_how_it_trains(run: Place, **facts: Any) -> None:
    """Write into run.yaml what a run trains with: its precision, device and compilation."""
    found = _read_record(run)
    record = {**found, **facts}
    if found and record != found:
        run.write(RUN_FILE, to_yaml(record))


def recorded_group_size(run: Place) -> int | None:
    """Return how many images a worker's device has memory for, None: it was never short."""
    if not run.exists(GROUP_SIZE_FILE):
        return None
    where = f"{run}/{GROUP_SIZE_FILE}"
    return read_as(_GROUP_SIZE, from_json(run.read(GROUP_SIZE_FILE), where), where)


def record_group_size(run: Place, images: int) -> None:
    """Keep how many images at once the workers of the next start try."""
    run.write(GROUP_SIZE_FILE, str(images).encode())


def _read_record(run: Place) -> dict[str, Any]:
    return from_yaml(run.read(RUN_FILE), f"{run}/{RUN_FILE}") if run.exists(RUN_FILE) else {}


def weights_record(run: Place, config: TrainConfig, split: ImageSplit) -> dict[str, Any]:
    """Return what the weights' file says of a run: what run.yaml holds, but not where the data lay.

    Earlier results are named as they were at the run's start: they may have been moved since.
    """
    began = {k: v for k, v in _read_record(run).items() if k == "earlier_results"}
    return run_record(config.model_copy(update={"data_root": None}), split, began)


def run_record(
    config: TrainConfig, split: ImageSplit, began: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what run.yaml holds: the configuration, what the data turned out to be, versions.

    What certify compares with its own data (certification/data_check.py): class names in order,
    the shape of an image, and a fingerprint, with a sample of the images where they are the user's
    own.
    """
    is_own = DATASETS[split.name].is_own
    layer = normalisation_in_training(config.model, DATASETS[config.dataset].statistics)
    return {
        **config.model_dump(mode="json"),
        "classes": list(split.classes),
        "image_shape": list(split.image_shape),
        "normalisation": layer.text,
        "data_fingerprint": fingerprint(split, sampled=is_own),
        **(began or recorded_results(config)),
        "versions": versions(),
    }


def recorded_results(*configs: TrainConfig) -> dict[str, Any]:
    """Return what a record says of the RUNs and CERTs that runs learn from: what they hold."""
    named = {name: where for each in configs for name, where in each.earlier_results.items()}
    found = {name: digest_of(where) for name, where in named.items()}
    return {"earlier_results": found} if found else {}


def refuse_other_results(
    record: Mapping[str, Any], where: Place, *configs: TrainConfig, may_be_gone: bool = False
) -> None:
    """Raise UserError where a record names other earlier results than the configurations do now.

    With `may_be_gone`, a result that is gone since is known by its path.
    """
    told = f"what {where} says of earlier_results"
    began = read_as(_EARLIER_RESULTS, record.get("earlier_results"), told) or {}
    named = {name: place for each in configs for name, place in each.earlier_results.items()}
    for name in sorted({*began, *named}):
        place, digest = named.get(name), began.get(name)
        if place is None:
            raise UserError(f"{where} began with {name}, which is not given now: use another --out")
        if digest is None:
            raise UserError(f"{where} began without {name}, now it is {place}: use another --out")
        try:
            is_another = digest_of(place) != digest
        except UserError:
            if not may_be_gone or TrainConfig.of_record(record).earlier_results.get(name) != place:
                raise
            continue
        if is_another:
            raise UserError(f"{where} began with another {name} than {place}: use another --out")


def refuse_other_data(record: Mapping[str, Any], where: Place, split: ImageSplit) -> None:
    """Raise UserError where a record was made with other training images than those of a split."""
    began = record.get("data_fingerprint") or {}
    read_as(FingerprintRecord, began, f"what {where} says of data_fingerprint")
    if not is_same(began, fingerprint(split, sampled=False)):
        raise UserError(
            f"{where} began with other training data ({began.get('images') or 0:,} images then, "
            f"{len(split):,} now, or others of the same number): use another --out"
        )


def read_own_run(run: Place, config: TrainConfig, split: ImageSplit) -> dict[str, Any] | None:
    """Return run.yaml of this configuration's earlier start, finished or not, or None for none.

    Raises UserError when RUN belongs to another run, naming the first differences, or when the data
    or the earlier results are no longer those that it began with.
    """
    record = read_own_record(run, RUN_FILE, config, "run")
    if record is None:
        return None
    refuse_other_data(record, run, split)
    refuse_other_results(record, run, config, may_be_gone=is_finished(run))
    return record


def is_finished(run: Place) -> bool:
    """Tell whether a RUN holds what a training ends with."""
    return run.exists(WEIGHTS_FILE)


def claim_run(run: Place, config: TrainConfig, split: ImageSplit, device: torch.device) -> bool:
    """Make RUN this configuration's own; returns whether it is finished already.

    Raises UserError where `read_own_run` or `check_settings` does.
    """
    if read_own_run(run, config, split) is not None:
        return is_finished(run)
    # The check comes first, so that a typo does not claim the folder.
    check_settings(config, split, device)
    record = to_yaml(run_record(config, split))
    write_own_record(run, RUN_FILE, record, lambda: read_own_run(run, config, split))
    return is_finished(run)
