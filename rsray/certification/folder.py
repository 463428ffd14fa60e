"""A CERT folder: claimed by one run, filled with counts, finished with certificates."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rsray.certification.counts.certificate_columns import certificate_columns, check_complete
from rsray.certification.counts.gathering import GatheredCounts
from rsray.certification.counts.store import CountStore
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.sampling_plan import SamplingPlan
from rsray.config import CertifyConfig
from rsray.core import NOISES
from rsray.data.fingerprint import FingerprintRecord, is_same
from rsray.errors import UserError
from rsray.results.certificates import Certificates, write_certificates
from rsray.results.summary import summarise, write_summary
from rsray.storage import Place
from rsray.storage.ownership import read_own_record
from rsray.storage.records import from_json, read_as
from rsray.storage.yaml_files import from_yaml, to_yaml
from rsray.versions import arithmetic, versions

log = logging.getLogger(__name__)
CERT_FILE, TABLE, SUMMARY = "certify.yaml", "certificates.parquet", "summary.json"
PROGRESS, AT_RADIUS = "progress.json", "at_radius.json"
# In the metadata: what computed the certificates, and by which every change of a count shows.
DECIDED_BY, COUNTS_DIGEST = "decided_by", "counts_digest"
# Settings that stand in the metadata of every certificate.
METADATA_SETTINGS: tuple[str, ...] = (
    "sigma", "alpha", "bound", "sampling", "seed", "dataset", "split", "model", "n0", "n",
    "block_size", "start", "skip", "limit", "precision", "model_digest", "normalisation",
    "source", "denoiser", "image_size", "channels", "label_column", "classes", "image_shape",
    "data_fingerprint", "is_spread",
)  # fmt: skip
# Settings that only some runs have; at these values they are not part of what a run is called.
OPTIONAL: dict[str, Any] = {
    "tolerance": 0.01, "at_radius": [], "model_args": {}, "channels": None, "label_column": None,
    "is_spread": False, "noise": "float", "inverse_temperature": 1.0, "reused_run": None,
}  # fmt: skip


class DrawnWith(BaseModel):
    """The settings of a CERT that another was made from."""

    model_config = ConfigDict(frozen=True, strict=True)

    alpha: float
    bound: str
    n: int


class CertRecord(BaseModel):
    """What certify.yaml holds beside the settings."""

    model_config = ConfigDict(frozen=True)

    model_digest: str
    evaluation: Evaluation
    versions: dict[str, str | None]
    recertified_from: DrawnWith | None = None
    drawn_with: DrawnWith | None = None
    # Where the network does not compute in the precision that was asked for.
    asked_precision: str | None = None


class Spent(BaseModel):
    """What is used of progress.json."""

    seconds: float = Field(0.0, ge=0, le=1e10, allow_inf_nan=False)


@dataclass(frozen=True)
class Claimed:
    """A CERT folder that is this run's own."""

    folder: Place
    config: CertifyConfig
    evaluation: Evaluation
    run_id: str
    # By earlier starts of the run.
    spent_seconds: float
    versions: dict[str, str | None]

    @property
    def store(self) -> CountStore:
        """The run's counts."""
        return CountStore(self.folder, self.run_id, self.config.num_classes)

    @property
    def plan(self) -> SamplingPlan:
        """Which draws each image gets."""
        return SamplingPlan.of(self.config)


def finished_record(cert: Place) -> dict[str, Any]:
    """Return what certify.yaml says of a certification; UserError for one that is not finished."""
    if not cert.exists(CERT_FILE):
        raise UserError(f"{cert} is no CERT folder: it has no {CERT_FILE}")
    if not cert.exists(TABLE):
        raise UserError(
            f"{cert} is an unfinished certification: run `rsray certify` again with its --out"
        )
    record = from_yaml(cert.read(CERT_FILE), f"{cert}/{CERT_FILE}")
    read_as(CertRecord, record, f"{cert}/{CERT_FILE}")
    return record


def reopen(cert: Place, record: Mapping[str, Any]) -> Claimed:
    """Return a finished CERT as its own run left it."""
    config = CertifyConfig.of_record(record)
    found = read_as(CertRecord, record, f"{cert}/{CERT_FILE}")
    return Claimed(cert, config, found.evaluation, run_id(config), 0.0, found.versions)


def run_id(config: CertifyConfig) -> str:
    """Return a short name of everything that decides the counts."""
    values = config.identity()
    # Earlier versions did not record it
    values.pop("normalisation")
    known = {k: v for k, v in values.items() if k not in OPTIONAL or v != OPTIONAL[k]}
    text = json.dumps(known, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def recorded_evaluation(cert: Place, config: CertifyConfig) -> Evaluation | None:
    """Return the evaluation that an earlier start of this run chose, or None for a new run.

    Raises UserError when the folder belongs to something else, naming the first differences, or the
    data are no longer those that it began with.
    """
    record = read_own_record(cert, CERT_FILE, config, "certification")
    if record is None:
        return None
    _refuse_other_images(cert, record, config)
    evaluation = read_as(CertRecord, record, f"{cert}/{CERT_FILE}").evaluation
    # What was asked for then may have been impossible: it is asked for again.
    is_asked_anew = config.compile not in ("auto", record.get("compile"))
    if is_asked_anew and evaluation.compiled != (config.compile == "on"):
        was = "compiled" if evaluation.compiled else "not compiled"
        raise UserError(
            f"{cert} counts with a network that is {was}: compile {config.compile!r} needs another "
            "--out"
        )
    return evaluation


def _refuse_other_images(cert: Place, record: Mapping[str, Any], config: CertifyConfig) -> None:
    """Raise UserError where the split was another one: an image would have counts of two."""
    began, now = record.get("images_fingerprint") or {}, config.images_fingerprint or {}
    read_as(FingerprintRecord, began, f"{cert}/{CERT_FILE}: images_fingerprint")
    if not is_same(began, now):
        raise UserError(
            f"{cert} began with other images ({began.get('images')} then, {now.get('images')} now, "
            "or others of the same number): give the data root that it began with, or another --out"
        )


def claim(cert: Place, asked: CertifyConfig, evaluation: Evaluation) -> Claimed:
    """Write certify.yaml if it is not there, and return the folder as this run's own.

    The run's precision is that of the evaluation, whatever was asked for.
    """
    spent, config = 0.0, asked.model_copy(update={"precision": evaluation.precision})
    if not cert.exists(CERT_FILE):
        cert.make()
        record = {
            **config.model_dump(mode="json"),
            "evaluation": evaluation.record(),
            "versions": versions(),
        }
        if asked.precision not in (None, config.precision):
            record["asked_precision"] = asked.precision
        cert.write(CERT_FILE, to_yaml(record))
    elif cert.exists(PROGRESS):
        where = f"{cert}/{PROGRESS}"
        spent = read_as(Spent, from_json(cert.read(PROGRESS), where), where).seconds
    where = f"{cert}/{CERT_FILE}"
    begun = read_as(CertRecord, from_yaml(cert.read(CERT_FILE), where), where).versions
    if begun.get("torch") != versions().get("torch") and not cert.exists(TABLE):
        log.warning(
            "%s was begun with torch %s and goes on with %s, which may round otherwise: its "
            "certificates then speak of two functions",
            cert, begun.get("torch"), versions().get("torch"),
        )  # fmt: skip
    return Claimed(cert, config, evaluation, run_id(config), spent, begun)


def finish(
    claimed: Claimed, gathered: GatheredCounts, *, seconds: float, failed: dict[int, str]
) -> dict[str, Any]:
    """Write certificates.parquet and summary.json from the stored counts; returns the summary.

    Every owed block must be stored, but for images in `failed` ({index: reason}), which get no
    certificate. Raises IncompleteError otherwise.
    """
    selected = gathered.selected
    if len(failed) == len(selected.indices):
        index, reason = next(iter(failed.items()))
        raise UserError(f"no image could be certified; image {index}: {reason}")
    check_complete(selected, gathered.stored_draws(), failed)
    columns = certificate_columns(selected, gathered.evidence(), gathered.plan)
    lost = np.isin(selected.indices, list(failed))
    labels = dict(zip(selected.indices[lost].tolist(), selected.labels[lost].tolist(), strict=True))
    columns = {name: values[~lost] for name, values in columns.items()}
    more = {"counts_digest": gathered.digest, **reuse_figures(gathered, columns)}
    return conclude(claimed, columns, seconds=seconds, failed=failed, failed_labels=labels, **more)


def reuse_figures(gathered: GatheredCounts, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what the summary says of reused counts: draws of both networks, and of a fresh run.

    It is empty of a run that uses none.
    """
    reused = gathered.evidence().reused
    if reused is None:
        return {}
    both = _draws(columns) + int(reused.pairs.sum() + columns["n0"].sum())
    fresh = _draws(columns) + int(reused.n.sum())
    return {"reused": {"draws_of_both": both, "draws_of_fresh": fresh}}


class Conclusion(NamedTuple):
    """What certificates come to, as it is written beside them."""

    metadata: dict[str, Any]
    summary: dict[str, Any]
    # What at_radius.json holds, of runs that decide a few radii alone.
    at_radius: dict[str, Any] | None


def conclude(claimed: Claimed, columns: dict[str, np.ndarray], **known: Any) -> dict[str, Any]:
    """Write certificates.parquet and summary.json of the certificates; returns the summary.

    `known` is as for `conclusion`.
    """
    found = conclusion(claimed, columns, **known)
    write_certificates(claimed.folder / TABLE, columns, found.metadata)
    if found.at_radius is not None:
        claimed.folder.write(AT_RADIUS, json.dumps(found.at_radius, indent=2).encode())
    write_summary(claimed.folder / SUMMARY, found.summary)
    return found.summary


def conclusion(
    claimed: Claimed,
    columns: dict[str, np.ndarray],
    *,
    counts_digest: int,
    seconds: float | None,
    failed: dict[int, str],
    failed_labels: dict[int, int],
    decided_by: Any = None,
    **more: Any,
) -> Conclusion:
    """Return the metadata, the summary and what else follows from the certificates.

    Images in `failed` are named in both, since they count 0 in every figure; `more` is added to the
    summary. What decided is this machine unless it is given.
    """
    config, metadata = claimed.config, table_metadata(claimed)
    metadata[DECIDED_BY] = decided_by or arithmetic()
    # JSON has no whole numbers of 64 bits
    metadata[COUNTS_DIGEST] = f"{counts_digest:016x}"
    if failed:
        metadata["failed"] = {str(index): reason for index, reason in failed.items()}
        metadata["failed_labels"] = {str(index): label for index, label in failed_labels.items()}
    certificates = Certificates(name=str(claimed.folder), metadata=metadata, **columns)
    record = _at_radii(claimed, certificates) if config.at_radius else None
    extra = {
        "seconds": seconds,
        "draws": _draws(columns),
        "indices": {"start": config.start, "skip": config.skip, "limit": config.limit},
        **more,
    }
    if record is not None:
        extra |= {
            "at_radius": record["certified_accuracy"],
            "undecided": record["undecided"],
            "acr_is_lower_bound": True,
            "certified_accuracy_is_lower_bound": True,
        }
    return Conclusion(metadata, summarise(certificates, extra=extra), record)


def _draws(columns: dict[str, np.ndarray]) -> int:
    return int(columns["n0"].sum() + columns["n"].sum())


def _at_radii(claimed: Claimed, certificates: Certificates) -> dict[str, Any]:
    """Return what at_radius.json says.

    The draws of an image stop once the radii that were asked are answered, so its radius, and all
    figures at other radii, are bounds from below.
    """
    radii, plan, columns = claimed.config.at_radius, claimed.plan, certificates.columns()
    accuracy = certificates.accuracy_at(radii)
    # All digits, not %g's six: a radius is never rounded up.
    texts = [repr(float(radius)).removesuffix(".0") for radius in radii]
    drawn = columns["n"] > 0
    is_open = drawn & ~plan.is_answered(columns["count_a"], columns["n"])
    return {
        "certified_accuracy": dict(zip(texts, accuracy.tolist(), strict=True)),
        "num_images": len(columns["index"]),
        # At n draws, and counted as not certified.
        "undecided": int(is_open.sum()),
        "draws": _draws(columns),
        "draws_of_fixed": len(columns["index"]) * (claimed.config.n0 + claimed.config.n),
    }


def table_metadata(claimed: Claimed) -> dict[str, Any]:
    """Return the parameters that every certificate of the run depends on."""
    config, evaluation = claimed.config, claimed.evaluation
    kept = METADATA_SETTINGS
    values = config.model_dump(mode="json")
    if config.sampling == "adaptive":
        kept = (*kept, "tolerance")
    if config.soft:
        kept = (*kept, "inverse_temperature")
    if config.at_radius:
        kept = (*kept, "at_radius")
    if config.reused_run:
        kept = (*kept, "reuse", "reused_run")
    values["bound"] = claimed.plan.bound.name
    return {
        **{key: values[key] for key in kept},
        "noise": NOISES[config.noise].recorded_name,
        "noise_total_variation": config.total_variation,
        "smoothing": "soft" if config.soft else "hard",
        "device": evaluation.device,
        "device_name": evaluation.device_name,
        "batch_size": evaluation.batch_size,
        "memory_format": evaluation.memory_format,
        "compiled": evaluation.compiled,
        "versions": claimed.versions,
    }
