from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_files import SHARED

from rsray.results.certificates import Certificates

METADATA = {"sigma": 0.5, "alpha": 0.001, "bound": "clopper-pearson", "dataset": "toy", "n": 1000}


@pytest.fixture
def reference() -> Path:
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"no published logs in {folder}")
    return folder


@pytest.fixture
def make() -> Callable[..., Certificates]:
    def build(size: int = 40, *, name: str = "toy", start: int = 0, skip: int = 1, **metadata: Any):
        rng = np.random.default_rng(size)
        label = rng.integers(0, 10, size, dtype=np.int32)
        kind = rng.choice(3, size, p=[0.7, 0.2, 0.1])  # correct, wrong, abstaining
        prediction = np.where(kind == 0, label, np.where(kind == 1, (label + 1) % 10, -1))
        return Certificates(
            name=name,
            metadata={**METADATA, **metadata},
            index=np.arange(size, dtype=np.int64) * skip + start,
            label=label,
            prediction=prediction.astype(np.int32),
            radius=np.where(kind == 2, 0.0, rng.uniform(0.0, 1.2, size)),
            correct=prediction == label,
            p_a_lower=rng.uniform(0.5, 1.0, size),
            p_b_upper=rng.uniform(0.0, 0.5, size),
            count_a=rng.integers(500, 1000, size),
            n0=np.full(size, 100),
            n=np.full(size, 1000),
            skipped=np.zeros(size, dtype=bool),
        )

    return build


@pytest.fixture
def without() -> Callable[..., Certificates]:
    """Return a function that takes an image's certificate away, as one that failed."""

    def failed(result: Certificates, image: int, *, label: int | None = None) -> Certificates:
        keep = result.index != image
        columns = {name: column[keep] for name, column in result.columns().items()}
        metadata = {**result.metadata, "failed": {str(image): "OSError: damaged"}}
        if label is not None:
            metadata["failed_labels"] = {str(image): label}
        return replace(result, metadata=metadata, **columns)

    return failed
