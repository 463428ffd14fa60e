"""PREDICT over a set of images, in this process."""

from __future__ import annotations

import pyarrow as pa
import torch

from rsray.certification.engine.evaluation import choose_evaluation
from rsray.certification.engine.sampler import Sampler, ShortOfMemoryError
from rsray.certification.request import PredictionRequest
from rsray.core.decide import predict_hard
from rsray.core.hardware import default_device, fastest_precision
from rsray.errors import UserError
from rsray.storage import one_line
from rsray.storage.schemas import PREDICTIONS

# What stands for the name of no class.
ABSTAIN = "abstain"


def predict_images(request: PredictionRequest) -> tuple[pa.Table, dict[str, str]]:
    """Return a row of PREDICTIONS for each image (Cohen et al. 2019, PREDICT), and what failed.

    With probability at least 1 - alpha over an image's draws, a prediction that does not abstain
    is the smoothed classifier's class. An image that cannot be read, or for which the network
    raises or a logit is NaN, has no row: it is named with the reason. UserError when all fail, or
    the device runs out of memory.
    """
    sampler, split = _sampler(request), request.split
    rows: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    for index in request.indices.tolist():
        try:
            image = split.images([index])[0]
            counts_1K = sampler.counts(image, index, "estimation", [(0, request.config.n)])
        except ShortOfMemoryError as problem:
            raise UserError(str(problem)) from problem
        except torch.AcceleratorError:  # the GPU's own trouble
            raise
        except Exception as problem:  # one image's fault must not cost the others their answer
            failed[str(index)] = one_line(problem)
            continue
        prediction, p_value = predict_hard(
            counts_1K, alpha=request.config.alpha, total_variation=sampler.total_variation
        )
        label, predicted = int(split.labels[index]), int(prediction[0])
        names = (split.classes[label], split.classes[predicted] if predicted >= 0 else ABSTAIN)
        values = (index, label, predicted, float(p_value[0]), *names)
        rows.append(dict(zip(PREDICTIONS.names, values, strict=True)))
    if failed and not rows:
        index, reason = next(iter(failed.items()))
        raise UserError(f"no image can be predicted; image {index}: {reason}")
    return pa.Table.from_pylist(rows, schema=PREDICTIONS), failed


def _sampler(request: PredictionRequest) -> Sampler:
    """Return the engine on this process's device."""
    split, device = request.split, default_device()
    precision = fastest_precision(request.precision, device)
    model = request.source.build(split).to(device)
    evaluation = choose_evaluation(model, split.image_shape, precision=precision, device=device)
    assert request.source.sigma is not None
    return Sampler(
        model,
        evaluation,
        image_shape=split.image_shape,
        num_classes=split.num_classes,
        sigma=request.source.sigma,
        seed=request.seed,
        noise=request.config.noise,
    )
