"""What is to be certified: a RUN of ours, or a checkpoint file with its architecture named."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from rsray import models
from rsray.config import READING, TrainConfig
from rsray.data import DATASETS, ImageSplit
from rsray.errors import UserError
from rsray.storage import Place, read_file
from rsray.storage.address import parent_and_name
from rsray.storage.yaml_files import from_yaml

PUBLISHED = (".pth", ".tar", ".pt", ".th")


@dataclass(frozen=True)
class ClassifierSource:
    """A base classifier's weights and what is known of it; None where it must be given."""

    where: str
    weights: bytes
    published: bool  # a torch checkpoint of another code base, read with weights_only=True
    digest: str  # SHA-256 of the weights file
    model: str | None = None
    dataset: str | None = None
    data_root: str | None = None
    image_size: int | None = None
    channels: int | None = None
    label_column: str | None = None
    sigma: float | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)  # what is recorded of its training

    def build(self, split: ImageSplit) -> nn.Module:
        """Return the model for the split's images with the weights loaded, in evaluation mode."""
        return self.network(split.image_shape, split.num_classes)

    def network(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the same for images of this shape (C, H, W) and so many classes."""
        if self.model is None:
            raise UserError(f"{self.where} does not say its architecture: give --model")
        model = models.build(
            self.model,
            image_shape=image_shape,
            num_classes=num_classes,
            statistics=DATASETS[self.dataset].statistics if self.dataset else None,
        )
        models.check(model, image_shape, num_classes)
        if self.published:
            models.load_published(self.weights, model, self.where)
        else:
            models.load_weights(model, self.weights, self.where)
        return model.eval()

    def complete(self) -> ClassifierSource:
        """Return the source if all is known of it that certifying needs; UserError otherwise."""
        for name in ("model", "dataset", "sigma"):
            if getattr(self, name) is None:
                raise UserError(f"{self.where} does not say its {name}: give --{name}")
        if not 0 < float(self.sigma or 0) < math.inf:
            raise UserError(f"sigma is {self.sigma}: the noise standard deviation must be positive")
        return self

    def given(self, **known: Any) -> ClassifierSource:
        """Return the source with what the user said in place of what the files say."""
        return replace(self, **{key: value for key, value in known.items() if value is not None})

    def of_other_data(self) -> ClassifierSource:
        """Return the source without what it says of how its own data set is read."""
        return replace(self, channels=None, label_column=None)


def open_source(where: str) -> ClassifierSource:
    """Return the classifier in a RUN folder or a checkpoint file; UserError says what is wrong."""
    folder = Place.of(where)
    if folder.is_file():
        return _open_file(folder)
    if not folder.exists():
        raise UserError(f"{where} does not exist: expected a RUN folder or a checkpoint file")
    if not folder.exists("run.yaml"):
        raise UserError(f"{where} is no RUN folder: it has no run.yaml")
    if not folder.exists("model.safetensors"):
        raise UserError(
            f"{where} has no model.safetensors: its training is not finished; "
            f"run the same rsray train ... --out {where} again to continue it"
        )
    record = from_yaml(folder.read("run.yaml"), f"{where}/run.yaml")
    weights = folder.read("model.safetensors")
    return _described(where, weights, record)


def _open_file(file: Place) -> ClassifierSource:
    name = parent_and_name(file.uri)[1]
    weights = read_file(file)
    if name.endswith(".safetensors"):
        return _described(file.uri, weights, _metadata(weights, file.uri))
    if name.endswith(PUBLISHED):
        return ClassifierSource(file.uri, weights, True, _digest(weights))
    raise UserError(
        f"{file.uri} is no checkpoint: expected a RUN folder, a .safetensors file, "
        f"or a torch checkpoint ({', '.join(PUBLISHED)})"
    )


def _described(where: str, weights: bytes, record: dict[str, Any]) -> ClassifierSource:
    known = {key: record.get(key) for key in ("model", "dataset", "data_root", *READING, "sigma")}
    return ClassifierSource(where, weights, False, _digest(weights), **known, trained=record)


def _metadata(weights: bytes, where: str) -> dict[str, Any]:
    import tempfile

    try:
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(weights)
            file.flush()
            with safe_open(file.name, framework="numpy") as opened:
                metadata = opened.metadata() or {}
    except SafetensorError as problem:
        raise UserError(
            f"checkpoint {where} is damaged or not a safetensors file: {problem}"
        ) from problem
    try:
        record = json.loads(metadata.get("rsray", "{}"))
    except ValueError as problem:
        raise UserError(f"checkpoint {where}: its metadata is no JSON") from problem
    if not isinstance(record, dict):
        raise UserError(f"checkpoint {where}: its metadata is no rsray record")
    return record


def _digest(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()


def training_of(run: Place) -> TrainConfig:
    """Return the configuration in a RUN's run.yaml."""
    record = from_yaml(run.read("run.yaml"), f"{run}/run.yaml")
    return TrainConfig.make({k: v for k, v in record.items() if k in TrainConfig.model_fields})
