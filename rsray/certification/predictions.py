"""PREDICT over a set of images, in this process."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rsray.certification.engine.evaluation import choose_evaluation
from rsray.certification.engine.sampler import Sampler, ShortOfMemoryError
from rsray.certification.source import ClassifierSource
from rsray.core.decide import predict_hard
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.storage import one_line, write_file
from rsray.storage.schemas import PREDICTIONS, parquet_bytes


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
) -> tuple[pa.Table, dict[str, str]]:
    """Return a row of PREDICTIONS for each image (Cohen et al. 2019, PREDICT), and what failed.

    With probability at least 1 - alpha over an image's draws, a prediction that does not abstain
    is the smoothed classifier's class. An image that cannot be read, or for which the network
    raises or a logit is NaN, has no row: it is named with the reason. UserError when all fail, or
    the device runs out of memory.
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
    decided, failed = _decide_each(sampler, split, indices, n, alpha)
    if failed and not decided:
        index, reason = next(iter(failed.items()))
        raise UserError(f"no image can be predicted; image {index}: {reason}")
    rows = [
        dict(zip(PREDICTIONS.names, (index, int(split.labels[index]), *answer), strict=True))
        for index, answer in decided.items()
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS), failed


def _decide_each(
    sampler: Sampler, split: ImageSplit, indices: NDArray[np.int64], n: int, alpha: float
) -> tuple[dict[int, tuple[int, float]], dict[str, str]]:
    """Return (prediction, p-value) by the index of each image, and why others failed."""
    decided: dict[int, tuple[int, float]] = {}
    failed: dict[str, str] = {}
    for index in indices.tolist():
        try:
            image = split.images([index])[0]
            counts_1K = sampler.counts(image, index, "estimation", [(0, n)])
        except ShortOfMemoryError as problem:
            raise UserError(str(problem)) from problem
        except torch.AcceleratorError:  # the GPU's own trouble
            raise
        except Exception as problem:  # one image's fault must not cost the others their answer
            failed[str(index)] = one_line(problem)
            continue
        prediction_1, p_value_1 = predict_hard(counts_1K, alpha=alpha)
        decided[index] = int(prediction_1[0]), float(p_value_1[0])
    return decided, failed


def write_predictions(path: str, predictions: pa.Table) -> None:
    """Write the predictions as a Parquet file, whole or not at all."""
    write_file(path, parquet_bytes(predictions))
