"""What is to be certified: a RUN of ours, or a checkpoint file with its architecture named."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from torch import nn

from rsray import models
from rsray.certification.clean_accuracy import clean_accuracies
from rsray.config import MOST_SIGMA, READING
from rsray.data import DATASETS, ImageSplit
from rsray.data.fingerprint import FingerprintRecord
from rsray.errors import UserError
from rsray.models.checkpoint_file import PUBLISHED, safetensors_metadata
from rsray.models.factory import refuse_factory_of_a_file
from rsray.models.normalise import FACTORYS_OWN, NOTHING, Normalisation, Statistics, explained
from rsray.models.published import Checkpoint, LayerBefore
from rsray.storage import Place, read_file
from rsray.storage.address import parent_and_name
from rsray.storage.records import from_json, read_as
from rsray.storage.yaml_files import from_yaml

Size = Annotated[int, Field(ge=1, le=2**15)]


class TrainedRecord(BaseModel):
    """What run.yaml, or the metadata of weights, says of a network and of its training."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    model: str | None = None
    model_args: dict[str, Any] | None = None
    dataset: str | None = None
    data_root: str | None = None
    image_size: Size | None = None
    channels: Size | None = None
    label_column: str | None = None
    sigma: float | None = Field(None, gt=0, le=MOST_SIGMA)
    classes: list[str] | None = Field(None, min_length=1)
    image_shape: list[Size] | None = Field(None, min_length=3, max_length=3)
    data_fingerprint: FingerprintRecord | None = None


TRAINED = TypeAdapter(TrainedRecord)


@dataclass(frozen=True)
class ClassifierSource:
    """A base classifier's weights and what is known of it; None where it must be given."""

    where: str
    weights: bytes
    # A file of another code base
    published: bool
    # SHA-256 of the weights file
    digest: str
    model: str | None = None
    # For a factory
    model_args: Mapping[str, Any] | None = None
    dataset: str | None = None
    data_root: str | None = None
    image_size: int | None = None
    channels: int | None = None
    label_column: str | None = None
    sigma: float | None = None
    # What is recorded of its training
    trained: Mapping[str, Any] = field(default_factory=dict)
    # What the user states: a word of normalise.CHOICES or MEAN/STD
    normalise: str | None = None
    # What was decided, once `settled`
    normalisation: Normalisation | None = None

    def settled(self, split: ImageSplit) -> ClassifierSource:
        """Return the source with its normalisation decided; UserError where nothing says it.

        The weights are loaded into the network to see that they fit the split's images.
        """
        network, layer = self._load(split.image_shape, split.num_classes)
        normalisation = self._decide(layer)
        if normalisation is None:
            raise UserError(self._question(layer, network, split))
        normalisation.before(network, split.image_shape[0])
        return replace(self, normalisation=normalisation)

    def build(self, split: ImageSplit) -> nn.Module:
        """Return the model for the split's images with the weights loaded, in evaluation mode."""
        source = self.settled(split) if self.normalisation is None else self
        return source.network(split.image_shape, split.num_classes)

    def network(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the same for images of this shape (C, H, W) and so many classes."""
        network, layer = self._load(image_shape, num_classes)
        normalisation = self.normalisation or self._decide(layer)
        if normalisation is None:
            raise UserError(f"{self.where} does not say how it normalises images: give normalise")
        return normalisation.before(network, image_shape[0]).eval()

    def _load(
        self, image_shape: tuple[int, int, int], num_classes: int
    ) -> tuple[nn.Module, LayerBefore]:
        """Return the network with its weights, and what the file says of the layer before it."""
        if self.model is None:
            raise UserError(f"{self.where} does not say its architecture: give --model")
        network = models.build(
            self.model,
            image_shape=image_shape,
            num_classes=num_classes,
            arguments=self.model_args,
        )
        models.check(network, image_shape, num_classes)
        return network, self._checkpoint().load_into(network)

    def _checkpoint(self) -> Checkpoint:
        is_safetensors = not self.published or self.where.endswith(".safetensors")
        return Checkpoint.read(self.weights, self.where, is_safetensors=is_safetensors)

    @property
    def _statistics(self) -> Statistics | None:
        return DATASETS[self.dataset].statistics if self.dataset else None

    def _decide(self, layer: LayerBefore) -> Normalisation | None:
        """Return what is done to images: as the file says, else as the user states, or None.

        Raises UserError where they say different things.
        """
        is_factory = self.model is not None and ":" in self.model
        known = layer.normalisation
        # Of ours, without a layer
        if known is None and not self.published:
            known = FACTORYS_OWN if is_factory else NOTHING
        if self.normalise is not None:
            stated = Normalisation.stated(self.normalise, self._statistics)
            if known is None or not layer.is_certain:
                return stated
            if not known.is_as(stated):
                raise UserError(
                    f"{self.where} normalises images with {known.text}, "
                    f"but normalise {self.normalise} is {stated.text}"
                )
        if known is None and is_factory and not layer.is_missing:
            return FACTORYS_OWN
        return known

    def _question(self, layer: LayerBefore, network: nn.Module, split: ImageSplit) -> str:
        """Return the refusal of a file that does not say what was done to images before it."""
        statistics, channels = self._statistics, split.image_shape[0]
        names = ["dataset", "centre"] if statistics else []
        names = [*names, *(["imagenet"] if channels == 3 else []), "none"]
        found, images = clean_accuracies(
            network, {name: Normalisation.stated(name, statistics) for name in names}, split
        )
        hint = ", ".join(f"{name}: {accuracy:.0%}" for name, accuracy in found.items())
        lacks = "which layer stood before its network" if layer.is_missing else "how it normalises"
        return (
            f"{self.where} does not say {lacks}: give --normalise "
            f"{explained([*names, 'MEAN/STD'])} (clean accuracy on {images} images by {hint})"
        )

    def complete(self) -> ClassifierSource:
        """Return the source if all is known of it that certifying needs; UserError otherwise."""
        source = self
        if self.model is None and self.published:
            source = replace(self, model=self._named_architecture())
        for name in ("model", "dataset", "sigma"):
            if getattr(source, name) is None:
                raise UserError(f"{self.where} does not say its {name}: give --{name}")
        if not 0 < float(source.sigma or 0) < math.inf:
            raise UserError(
                f"sigma is {source.sigma}: the noise standard deviation must be positive"
            )
        return source

    def _named_architecture(self) -> str | None:
        """Return the network that a checkpoint names, of rsray's own: a file imports no code."""
        name = self._checkpoint().architecture
        if name is None or name in models.MODELS:
            return name
        raise UserError(
            f"{self.where} says that its architecture is {name!r}, which is none of "
            f"{', '.join(models.MODELS)}: give --model package.module:factory"
        )

    def identity(self) -> dict[str, Any]:
        """Return what a certification's settings hold of it, once it is settled."""
        assert self.normalisation is not None
        return {
            "model_digest": self.digest,
            "model": self.model,
            "model_args": dict(self.model_args or {}),
            "normalisation": self.normalisation.text,
            "dataset": self.dataset,
            "data_root": self.data_root,
            **{name: getattr(self, name) for name in READING},
            "sigma": self.sigma,
        }

    def given(self, **known: Any) -> ClassifierSource:
        """Return the source with what the user said in place of what the files say.

        Raises UserError where a file alone names a factory: that is code, which only the user's
        own word imports.
        """
        refuse_factory_of_a_file(self.model, self.where, known.get("model"))
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
    read_as(TRAINED, record, f"{where}/run.yaml")
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
    keys = ("model", "model_args", "dataset", "data_root", *READING, "sigma")
    known = {key: record.get(key) for key in keys}
    is_ours = known["model"] is not None
    return ClassifierSource(where, weights, not is_ours, _digest(weights), **known, trained=record)


def _metadata(weights: bytes, where: str) -> dict[str, Any]:
    """Return what rsray wrote into a safetensors file, nothing for one of another code base."""
    name = f"metadata of checkpoint {where}"
    record = from_json(safetensors_metadata(weights, where).get("rsray", "{}"), name)
    if not isinstance(record, dict):
        raise UserError(f"{name} is no rsray record")
    read_as(TRAINED, record, name)
    return record


def _digest(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()
