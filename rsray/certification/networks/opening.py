"""Opens what is to be certified: a RUN of ours, a checkpoint file, or several as an ensemble."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from rsray.certification.networks.denoiser import DenoiserSource, of_factory
from rsray.certification.networks.ensemble import EnsembleSource
from rsray.certification.networks.source import KNOWN, ClassifierSource
from rsray.config import LEAST_SIGMA, MOST_SIGMA
from rsray.data.fingerprint import FingerprintRecord
from rsray.errors import UserError
from rsray.models.checkpoint_file import PUBLISHED, safetensors_metadata
from rsray.models.published import find_class_names
from rsray.storage import Place, read_file
from rsray.storage.address import addresses_in, config_beside, is_ensemble, parent_and_name
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
    sigma: float | None = Field(None, ge=LEAST_SIGMA, le=MOST_SIGMA)
    classes: list[str] | None = Field(None, min_length=1)
    image_shape: list[Size] | None = Field(None, min_length=3, max_length=3)
    data_fingerprint: FingerprintRecord | None = None


TRAINED = TypeAdapter(TrainedRecord)


def open_source(where: str) -> ClassifierSource:
    """Return the classifier in a RUN folder or a checkpoint file; UserError says what is wrong.

    `ensemble:RUN,RUN,...` is one classifier, whose logits are the mean of its members'.
    """
    if is_ensemble(where):
        return EnsembleSource.of(where, tuple(map(open_source, addresses_in(where))))
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


def open_denoiser(text: str) -> DenoiserSource:
    """Return the denoiser in a RUN of the objective `denoise`, or a factory's."""
    if not Place.of(text).exists():
        return of_factory(text)
    found = open_source(text)
    return DenoiserSource.of_run(text, found.weights, found.digest, found.trained)


def _open_file(file: Place) -> ClassifierSource:
    name = parent_and_name(file.uri)[1]
    weights = read_file(file)
    if name.endswith(".safetensors") and (record := _metadata(weights, file.uri)):
        return _described(file.uri, weights, record)
    if name.endswith((".safetensors", *PUBLISHED)):
        names = _class_names_beside(file)
        return ClassifierSource(file.uri, weights, True, _digest(weights), class_names=names)
    raise UserError(
        f"{file.uri} is no checkpoint: expected a RUN folder, a .safetensors file, "
        f"or a torch checkpoint ({', '.join(PUBLISHED)})"
    )


def _class_names_beside(weights: Place) -> tuple[str, ...] | None:
    """Return the names in the config.json of Hugging Face's libraries, if it is there."""
    where = config_beside(weights.uri)
    if where is None or not Place.of(where).is_file():
        return None
    config = from_json(read_file(where), where, finite=False)
    return find_class_names(config) if isinstance(config, dict) else None


def _described(where: str, weights: bytes, record: dict[str, Any]) -> ClassifierSource:
    known = {key: record.get(key) for key in KNOWN}
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
