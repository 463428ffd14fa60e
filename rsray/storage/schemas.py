"""The schema of every Parquet file that certification writes, and how a table becomes its bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsray.storage.records import from_json

# Where a table's schema metadata holds the parameters of its run, as JSON.
RUN_KEY = b"rsray"


def _field(name: str, kind: pa.DataType, unit: str, meaning: str) -> pa.Field[pa.DataType]:
    return pa.field(name, kind, nullable=False, metadata={"unit": unit, "meaning": meaning})


COUNTS = pa.schema(
    [
        _field("index", pa.int64(), "position in the split", "which image"),
        _field("label", pa.int32(), "class", "the true class"),
        _field("stage", pa.string(), "", "selection, estimation, or reused (earlier counts)"),
        _field("block", pa.int32(), "", "number of the block of draws within image and stage"),
        _field("draws", pa.int64(), "draws", "noisy copies in the block"),
        _field("classes", pa.list_(pa.int32()), "class", "classes that were seen, ascending"),
        _field("counts", pa.list_(pa.int64()), "draws", "draws that fell in each of them"),
    ]
)
# For soft bounds, `classes` are all whose sum is not 0; a count of theirs may be.
SOFT_COUNTS = pa.schema(
    [
        *COUNTS,
        _field(
            "sums",
            pa.list_(pa.float64()),
            "probability",
            "soft probabilities of each of them, summed",
        ),
        _field("square_sums", pa.list_(pa.float64()), "probability^2", "their squares, summed"),
    ]
)
# Of draws that an earlier network made too, on the same noise; none where it did not.
PAIRED_COUNTS = pa.schema(
    [
        *COUNTS,
        _field("before", pa.list_(pa.int64()), "draws", "draws that it gave each of them"),
        _field("kept", pa.list_(pa.int64()), "draws", "draws that both networks gave it"),
    ]
)
CERTIFICATES = pa.schema(
    [
        _field("index", pa.int64(), "position in the split", "which image"),
        _field("label", pa.int32(), "class", "the true class"),
        _field("prediction", pa.int32(), "class", "the certified class; -1 = abstain"),
        _field(
            "radius", pa.float64(), "l2 in pixels of [0, 1]", "certified radius; 0 when abstaining"
        ),
        _field("correct", pa.bool_(), "", "prediction == label"),
        _field("p_a_lower", pa.float64(), "probability", "lower bound of the top class"),
        _field("p_b_upper", pa.float64(), "probability", "upper bound of the runner-up"),
        _field("count_a", pa.int64(), "draws", "estimation draws of the top class"),
        _field("n0", pa.int64(), "draws", "selection draws used"),
        _field("n", pa.int64(), "draws", "estimation draws used; 0 when skipped"),
        _field("skipped", pa.bool_(), "", "no estimation: selection already missed the label"),
    ]
)
PREDICTIONS = pa.schema(
    [
        _field("index", pa.int64(), "position in the split", "which image"),
        _field("label", pa.int32(), "class", "the true class"),
        _field("prediction", pa.int32(), "class", "the predicted class; -1 = abstain"),
        _field("p_value", pa.float64(), "probability", "of the binomial test behind it"),
        _field("label_name", pa.string(), "", "name of the true class"),
        _field("prediction_name", pa.string(), "", "name of the predicted class, or abstain"),
    ]
)


def parquet_bytes(
    table: pa.Table, metadata: Mapping[str, Any] | None = None, **options: Any
) -> bytes:
    """Return a table as a Parquet file, with the parameters of its run as schema metadata.

    `options` are those of pyarrow.parquet.write_table. Raises ValueError for metadata that is no
    JSON, as NaN is none.
    """
    if metadata is not None:
        text = json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
        table = table.replace_schema_metadata({RUN_KEY: text.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def run_metadata(schema: pa.Schema, name: str) -> Any:
    """Return the parameters in a table's schema metadata, None without; UserError if no JSON."""
    text = (schema.metadata or {}).get(RUN_KEY)
    return None if text is None else from_json(text, name)
