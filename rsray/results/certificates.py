"""certificates.parquet: one row per certified image, the run's parameters in schema metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsray import storage
from rsray.errors import UserError
from rsray.storage import PathLike
from rsray.storage.schemas import CERTIFICATES, parquet_bytes, run_metadata


# eq=False: comparing arrays with == has no single truth value.
@dataclass(frozen=True, kw_only=True, eq=False)
class Certificates:
    """One result: each column of `CERTIFICATES` as an array [N], rows sorted by index.

    A published log does not tell everything: there `p_a_lower` and `p_b_upper` are NaN, `count_a`,
    `n0` and `n` are -1, and the metadata says None.
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

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.index)

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
    ValueError for missing, unknown or unequally long columns and for an image that occurs twice.
    """
    storage.write_file(path, parquet_bytes(_table(columns), metadata))


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

    Raises UserError that names a file that is missing, truncated, or no certificates file.
    """
    table = _read_table(path)
    missing = [column for column in CERTIFICATES.names if column not in table.column_names]
    if missing:
        raise UserError(f"{path} is not a certificates file: no columns {', '.join(missing)}")
    metadata = _read_metadata(path, table.schema)
    try:
        table = table.select(CERTIFICATES.names).cast(CERTIFICATES)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(
            f"{path} is not a certificates file: {' '.join(str(error).split())}"
        ) from error
    columns = {column: table[column].to_numpy() for column in CERTIFICATES.names}
    result = Certificates(name=name or str(path), metadata=metadata, **columns)
    _check_rows(path, result)
    return result


def _read_table(path: PathLike) -> pa.Table:
    content = storage.read_file(path)
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a complete Parquet file: {reason}") from error


def _read_metadata(path: PathLike, schema: pa.Schema) -> dict[str, Any]:
    try:
        metadata = run_metadata(schema)
    except ValueError as error:
        raise UserError(f"{path} has unreadable metadata: {error}") from error
    if metadata is None:
        raise UserError(f"{path} is not a certificates file: no schema metadata 'rsray'")
    if not isinstance(metadata, dict):
        raise UserError(f"{path} has metadata that is no JSON object")
    return metadata


def _check_rows(path: PathLike, rows: Certificates) -> None:
    """Raise UserError for rows that no run writes, lest they become a figure in a paper."""
    faults = {
        "it holds no image": len(rows) == 0,
        "its rows are not sorted by a unique index": bool(np.any(np.diff(rows.index) <= 0)),
        "a radius is negative or not finite": not np.all(
            np.isfinite(rows.radius) & (rows.radius >= 0)
        ),
        "an abstention has a radius": bool(np.any(rows.radius[rows.prediction < 0] > 0)),
        "'correct' is not prediction == label": bool(
            np.any(rows.correct != (rows.prediction == rows.label))
        ),
    }
    found = [text for text, present in faults.items() if present]
    if found:
        raise UserError(f"{path} is not a sound certificates file: {'; '.join(found)}")
