"""PREDICT over a set of images, in this process."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from rsray.certification.evaluation import choose_evaluation
from rsray.certification.sampler import BadLogitsError, Sampler, ShortOfMemoryError
from rsray.certification.source import ClassifierSource
from rsray.core.counts import ClassCounts
from rsray.core.decide import predict_hard
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.storage import write_file

_FIELDS: list[tuple[str, pa.DataType]] = [
    ("index", pa.int64()),
    ("label", pa.int32()),
    ("prediction", pa.int32()),  # -1 = abstain
    ("p_value", pa.float64()),
]
PREDICTIONS = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _FIELDS])


def predict_images(
    source: ClassifierSource,
    split: ImageSplit,
    indices: NDArray[np.int64],
    *,
    n: int,
    alpha: float,
    sigma: float,
    seed: int,
    precision: str,
    device: torch.device,
) -> pa.Table:
    """Return a row of PREDICTIONS for each image (Cohen et al. 2019, PREDICT).

    With probability at least 1 - alpha over an image's draws, a prediction that does not abstain
    is the smoothed classifier's class. UserError names an image for which a logit is NaN.
    """
    model = source.build(split).to(device)
    evaluation = choose_evaluation(model, split.image_shape, precision=precision, device=device)
    sampler = Sampler(
        model,
        evaluation,
        image_shape=split.image_shape,
        num_classes=split.num_classes,
        sigma=sigma,
        seed=seed,
    )
    try:
        counts = [
            sampler.counts(split.images([index])[0], int(index), "estimation", [(0, n)])[0]
            for index in indices
        ]
    except (BadLogitsError, ShortOfMemoryError) as problem:
        raise UserError(str(problem)) from problem
    prediction, p_value = predict_hard(ClassCounts.dense(np.stack(counts)), alpha=alpha)
    columns = {
        "index": indices,
        "label": np.asarray(split.labels)[indices].astype(np.int32),
        "prediction": prediction,
        "p_value": p_value,
    }
    return pa.table(columns, schema=PREDICTIONS)


def write_predictions(path: str, predictions: pa.Table) -> None:
    """Write the predictions as a Parquet file, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(predictions, sink)
    write_file(path, sink.getvalue().to_pybytes())
