"""A CERT folder: claimed by one run, filled with counts, finished with certificates."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsray.certification.evaluation import Evaluation
from rsray.certification.plan import Draws
from rsray.certification.store import CountStore, Selected
from rsray.certification.verdict import certificate_columns, check_complete
from rsray.config import CertifyConfig, from_yaml, to_yaml
from rsray.errors import UserError
from rsray.results.certificates import Certificates, write_certificates
from rsray.results.summary import summarise, write_summary
from rsray.storage import Folder
from rsray.versions import versions

CERT_FILE, TABLE, SUMMARY, PROGRESS = (
    "certify.yaml",
    "certificates.parquet",
    "summary.json",
    "progress.json",
)


@dataclass(frozen=True)
class Claimed:
    """A CERT folder that is this run's own."""

    folder: Folder
    config: CertifyConfig
    evaluation: Evaluation
    run_id: str
    spent_seconds: float  # by earlier starts of the run
    versions: dict[str, str]

    @property
    def store(self) -> CountStore:
        """The run's counts."""
        return CountStore(self.folder, self.run_id)

    @property
    def draws(self) -> Draws:
        """How many draws each image gets, in which blocks."""
        return Draws(self.config.n0, self.config.n, self.config.block_size)


def run_id(config: CertifyConfig) -> str:
    """Return a short name of everything that decides the counts."""
    text = json.dumps(config.identity(), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def recorded_evaluation(cert: Folder, config: CertifyConfig) -> Evaluation | None:
    """Return the evaluation that an earlier start of this run chose, or None for a new run.

    Raises UserError when the folder belongs to something else, naming the first differences.
    """
    if cert.is_file():
        raise UserError(f"{cert} is a file: --out needs a folder")
    if not cert.exists(CERT_FILE):
        if [name for name in cert.names() if not name.startswith(".")]:
            raise UserError(f"{cert} is not empty and is no certification; use another --out")
        return None
    record = from_yaml(cert.read(CERT_FILE), f"{cert}/{CERT_FILE}")
    differences = config.differences(record)
    if differences:
        raise UserError(
            f"{cert} belongs to another certification: {'; '.join(differences[:3])}; "
            "use another --out"
        )
    return Evaluation(**record["evaluation"])


def claim(cert: Folder, config: CertifyConfig, evaluation: Evaluation) -> Claimed:
    """Write certify.yaml if it is not there, and return the folder as this run's own."""
    spent = 0.0
    if not cert.exists(CERT_FILE):
        cert.make()
        record = {
            **config.model_dump(mode="json"),
            "evaluation": evaluation.record(),
            "versions": versions(),
        }
        cert.write(CERT_FILE, to_yaml(record))
    elif cert.exists(PROGRESS):
        spent = float(json.loads(cert.read(PROGRESS)).get("seconds", 0.0))
    recorded = from_yaml(cert.read(CERT_FILE), f"{cert}/{CERT_FILE}")["versions"]
    return Claimed(cert, config, evaluation, run_id(config), spent, recorded)


def finish(
    claimed: Claimed, selected: Selected, *, seconds: float, failed: dict[int, str]
) -> dict[str, Any]:
    """Write certificates.parquet and summary.json from the stored counts; returns the summary.

    Every owed block must be stored, but for images in `failed` ({index: reason}), which get no
    certificate. Raises IncompleteError otherwise.
    """
    config, store = claimed.config, claimed.store
    if len(failed) == len(selected.indices):
        index, reason = next(iter(failed.items()))
        raise UserError(f"no image could be certified; image {index}: {reason}")
    check_complete(selected, store.done(selected, claimed.draws), config.sampling, failed)
    kept = ~np.isin(selected.indices, list(failed))
    columns = certificate_columns(
        selected,
        *store.totals(selected),
        sigma=config.sigma,
        alpha=config.alpha,
        sampling=config.sampling,
    )
    columns = {name: values[kept] for name, values in columns.items()}
    metadata = table_metadata(claimed)
    draws = int(columns["n0"].sum() + columns["n"].sum())
    extra = {
        "seconds": seconds,
        "draws": draws,
        "indices": {"start": config.start, "skip": config.skip, "limit": config.limit},
        "failed": {str(index): reason for index, reason in failed.items()},
    }
    write_certificates(f"{claimed.folder}/{TABLE}", columns, metadata)
    summary = summarise(
        Certificates(name=str(claimed.folder), metadata=metadata, **columns), extra=extra
    )
    write_summary(f"{claimed.folder}/{SUMMARY}", summary)
    return summary


def table_metadata(claimed: Claimed) -> dict[str, Any]:
    """Return the parameters that every certificate of the run depends on."""
    config, evaluation = claimed.config, claimed.evaluation
    kept = (
        "sigma",
        "alpha",
        "bound",
        "sampling",
        "seed",
        "dataset",
        "split",
        "model",
        "n0",
        "n",
        "block_size",
        "start",
        "skip",
        "limit",
        "precision",
        "model_digest",
        "source",
        "image_size",
    )
    values = config.model_dump(mode="json")
    return {
        **{key: values[key] for key in kept},
        "device": evaluation.device,
        "device_name": evaluation.device_name,
        "batch_size": evaluation.batch_size,
        "memory_format": evaluation.memory_format,
        "compiled": evaluation.compiled,
        "versions": claimed.versions,
    }
