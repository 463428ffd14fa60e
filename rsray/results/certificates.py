"""certificates.parquet: one row per certified image, the run's parameters in schema metadata."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from rsray import storage
from rsray.core.radius import (
    LARGEST_RADIUS,
    acr_standard_error,
    average_certified_radius,
    certified_accuracy,
)
from rsray.errors import UserError
from rsray.storage import PathLike, one_line
from rsray.storage.records import read_as
from rsray.storage.schemas import CERTIFICATES, parquet_bytes, run_metadata

Index = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]
MOST_CLASSES = 2**31 - 1
UNKNOWN_IN_LOGS: dict[str, ArrayLike] = {
    "p_a_lower": np.nan, "p_b_upper": np.nan, "count_a": -1, "n0": -1, "n": -1, "skipped": False
}  # fmt: skip


class Parameters(BaseModel):
    """What is used of the metadata of certificates.parquet; None where it is unknown."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    sigma: float | None = Field(None, gt=0, le=1e6)
    alpha: float | None = Field(None, gt=0, lt=1)
    n: int | None = Field(None, ge=1, le=2**53)
    n0: int | None = Field(None, ge=1, le=2**53)
    inverse_temperature: float | None = Field(None, gt=0)
    bound: str | None = None
    sampling: str | None = None
    tolerance: float | None = Field(None, gt=0)
    dataset: str | None = None
    split: str | None = None
    model: str | None = None
    noise: str | None = None
    classes: list[str] | None = None
    image_shape: list[int] | None = None
    label_column: str | None = None
    at_radius: list[Annotated[float, Field(ge=0)]] | None = None
    failed: dict[Index, str] = {}
    failed_labels: dict[Index, Annotated[int, Field(ge=-1, le=MOST_CLASSES)]] = {}
    # Of logs, which have no column for it
    skipped_images: list[int] = []


# eq=False: comparing arrays with == has no single truth value.
@dataclass(frozen=True, kw_only=True, eq=False)
class Certificates:
    """One result: each column of `CERTIFICATES` as an array [N], rows sorted by index.

    A published log does not tell everything: there `p_a_lower` and `p_b_upper` are NaN, `count_a`,
    `n0` and `n` are -1, and the metadata says None. A selected image that failed has no row; it is
    named in the metadata and counts 0 in every figure.
    """

    name: str
    metadata: Mapping[str, Any]
    index: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    radius: np.ndarray
    correct: np.ndarray
    p_a_lower: np.ndarray
    p_b_upper: np.ndarray
    count_a: np.ndarray
    n0: np.ndarray
    n: np.ndarray
    skipped: np.ndarray

    @classmethod
    def of_log(cls, name: str, metadata: Mapping[str, Any], **told: ArrayLike) -> Self:
        """Return the columns that a log of other code tells; the others are NaN or -1."""
        size, columns = np.size(told["index"]), UNKNOWN_IN_LOGS | told
        arrays = {
            each.name: np.full(size, columns[each.name], each.type.to_pandas_dtype())
            for each in CERTIFICATES
        }
        return cls(name=name, metadata=metadata, **arrays)

    def __len__(self) -> int:
        """Return the number of images that have a certificate."""
        return len(self.index)

    @property
    def failed(self) -> dict[int, str]:
        """Why each selected image without a certificate has none."""
        return {int(index): why for index, why in self.metadata.get("failed", {}).items()}

    @property
    def failed_labels(self) -> dict[int, int]:
        """The true class of each image that failed, where it is known."""
        found = self.metadata.get("failed_labels", {})
        return {int(index): int(label) for index, label in found.items()}

    @property
    def selected(self) -> np.ndarray:
        """The indices [S] of all images that the run was to certify, ascending."""
        failed = np.array(sorted(self.failed), dtype=np.int64)
        return np.union1d(self.index, failed)

    @property
    def outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        """Radius and correctness [S] of every selected image; a failed one has 0 and False."""
        width = (0, len(self.failed))
        return np.pad(self.radius, width), np.pad(self.correct, width)

    @property
    def acr(self) -> float:
        """The average certified radius over all selected images, pixels of [0, 1]."""
        return average_certified_radius(*self.outcomes)

    @property
    def acr_error(self) -> float | None:
        """The standard error of the ACR over the choice of images; None of a single image."""
        error = acr_standard_error(*self.outcomes)
        return error if math.isfinite(error) else None

    def accuracy_at(self, radii: ArrayLike) -> np.ndarray:
        """Return the fraction of the selected images that are certified at each radius [R]."""
        return certified_accuracy(*self.outcomes, radii)

    @property
    def has_labels(self) -> bool:
        """Whether it says what an image is and was taken for; a .mat file of MACER's does not."""
        return bool(np.all(self.label >= 0))

    @property
    def abstained(self) -> int | None:
        """How many images the classifier abstained from; None where that is not told."""
        if not self.has_labels:
            return None
        return int(np.sum((self.prediction < 0) & ~self.skipped))

    @property
    def draws(self) -> int | None:
        """The draws that the certificates rest on; None where that is not told."""
        used = self.n0 + self.n
        return None if np.any(used < 0) else int(used.sum())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in order; empty where the run did not record them."""
        return tuple(map(str, self.metadata.get("classes") or ()))

    def class_name(self, label: int) -> str:
        """Return what a class is called; its number where the run did not record its name."""
        return dict(enumerate(self.classes)).get(label, str(label))

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns by name, in the order of the schema."""
        return {name: getattr(self, name) for name in CERTIFICATES.names}

    @property
    def at_radius(self) -> tuple[float, ...]:
        """The radii that were decided where draws stopped once they were; empty of other runs.

        At any other radius, and for the ACR, such certificates say less than n draws would.
        """
        return tuple(self.metadata.get("at_radius") or ())

    def parameter(self, name: str) -> Any:
        """Return a parameter of the run, None if unknown; n and n0 fall back on the draws used."""
        value = self.metadata.get(name)
        if value is None and name in ("n", "n0") and len(self):
            most = int(getattr(self, name).max())
            return most if most > 0 else None
        return value


assert [f.name for f in fields(Certificates)][2:] == CERTIFICATES.names


def write_certificates(
    path: PathLike, columns: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write certificates.parquet, rows sorted by index, complete or not at all.

    `columns` holds an array [N] for every field of `CERTIFICATES`; `metadata` must be JSON. Raises
    ValueError for missing, unknown or unequally long columns, for an image that occurs twice, and
    for rows that no certification can have, such as a bound that is no number.
    """
    table = _table(columns)
    arrays = {name: table[name].to_numpy() for name in CERTIFICATES.names}
    faults = _faults(Certificates(name=str(path), metadata=metadata, **arrays))
    if faults:
        raise ValueError(f"these are no certificates: {'; '.join(faults)}")
    storage.write_file(path, parquet_bytes(table, metadata))


def _table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    wrong = set(columns) ^ set(CERTIFICATES.names)
    if wrong:
        raise ValueError(f"certificates lack or do not know the columns {sorted(wrong)}")
    if len(np.unique(columns["index"])) != len(columns["index"]):
        raise ValueError("an image has two certificates")
    order = np.argsort(columns["index"], kind="stable")
    arrays = [pa.array(np.asarray(columns[f.name])[order], type=f.type) for f in CERTIFICATES]
    return pa.Table.from_arrays(arrays, schema=CERTIFICATES)


def read_certificates(path: PathLike, *, name: str | None = None) -> Certificates:
    """Return the certificates in a file under that name (default: the path).

    Raises UserError that names a file that is missing, truncated, or no certificates file, or that
    holds rows which no run writes.
    """
    result = read_rows(path, name=name)
    faults = [*([] if len(result) else ["it holds no image"]), *_faults(result)]
    if faults:
        raise UserError(f"{path} is not a sound certificates file: {'; '.join(faults)}")
    return result


def read_rows(path: PathLike, *, name: str | None = None) -> Certificates:
    """Return what a certificates file holds, whatever its rows say."""
    table = read_table(path)
    missing = [column for column in CERTIFICATES.names if column not in table.column_names]
    if missing:
        raise UserError(f"{path} is not a certificates file: no columns {', '.join(missing)}")
    metadata = _read_metadata(path, table.schema)
    try:
        table = table.select(CERTIFICATES.names).cast(CERTIFICATES)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} is not a certificates file: {one_line(error)}") from error
    empty = [column for column in CERTIFICATES.names if table[column].null_count]
    if empty:
        raise UserError(f"{path} is not a certificates file: {', '.join(empty)} lacks values")
    columns = {column: table[column].to_numpy() for column in CERTIFICATES.names}
    return Certificates(name=name or str(path), metadata=metadata, **columns)


def read_table(path: PathLike) -> pa.Table:
    """Return the table in a Parquet file; UserError for what is none."""
    content = storage.read_file(path)
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path} is not a complete Parquet file: {one_line(error)}") from error


def _read_metadata(path: PathLike, schema: pa.Schema) -> dict[str, Any]:
    metadata = run_metadata(schema, f"metadata of {path}")
    if metadata is None:
        raise UserError(f"{path} is not a certificates file: no schema metadata 'rsray'")
    if not isinstance(metadata, dict):
        raise UserError(f"{path} has metadata that is no JSON object")
    read_as(Parameters, metadata, f"metadata of {path}")
    # Of an audit audit.json tells, which says what it is of.
    return {key: value for key, value in metadata.items() if key != "audit"}


def _faults(rows: Certificates) -> list[str]:
    """Return what is wrong with rows, in words; nothing for those that a run writes."""
    is_radius = (rows.radius >= 0) & (rows.radius <= LARGEST_RADIUS)
    faults = {
        "its rows are not sorted by a unique index": np.any(np.diff(rows.index) <= 0),
        f"a radius is not in 0..{LARGEST_RADIUS:,g}": not np.all(is_radius),
        "a bound is not a number": np.any(np.isnan(rows.p_a_lower) | np.isnan(rows.p_b_upper)),
        "an abstention has a radius": np.any(rows.radius[rows.prediction < 0] > 0),
        "'correct' is not prediction == label": np.any(
            rows.correct != (rows.prediction == rows.label)
        ),
        "an image that failed has a certificate": np.isin(rows.index, list(rows.failed)).any(),
    }
    return [text for text, present in faults.items() if present]
