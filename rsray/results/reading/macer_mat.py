"""Results as MACER's code writes them: a .mat file with the certified radii of an image range."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from rsray import storage
from rsray.errors import UserError
from rsray.results.certificates import Certificates
from rsray.storage import PathLike

FORMAT = "macer-mat"
# What its two kinds of smoothing are called there -> what is added to the name of a result.
KINDS = {"hard": "", "soft": " (soft)"}
# A wrong class, or an abstention: the file does not say which.
WRONG = -1.0


def read_mat(path: PathLike, *, start: int, skip: int, name: str) -> list[Certificates]:
    """Return the hard certificates in a .mat file, the soft ones, or both: a result for each.

    The file holds the radii of the images start, start + skip, ..., and nothing of their classes:
    label and prediction are -1 (of a wrong one -2). Raises UserError for what is no such file.
    """
    from scipy.io import loadmat  # type: ignore[import-untyped]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

    try:
        stream: Any = io.BytesIO(storage.read_file(path))
        found = loadmat(stream, variable_names=[*KINDS])
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as problem:
        reason = " ".join(str(problem).split())
        raise UserError(f"{path} is not a readable .mat file: {reason}") from problem
    kinds = [kind for kind in KINDS if kind in found]
    if not kinds:
        raise UserError(f"{path} holds no certified radii: it has no variable hard or soft")
    images = range(start, 2**62, skip)
    return [
        _certificates(path, found[kind], images, f"{name}{KINDS[kind]}", kind) for kind in kinds
    ]


def _certificates(
    path: PathLike, stored: np.ndarray, images: range, name: str, kind: str
) -> Certificates:
    if (
        stored.dtype.kind not in "fiu"
        or not stored.size
        or stored.ndim != 2
        or 1 not in stored.shape
    ):
        raise UserError(f"{path}: {kind} is no row of radii")
    radius = stored.astype(np.float64).reshape(-1)
    correct = radius != WRONG
    if not np.all(np.isfinite(radius) & ((radius >= 0) | ~correct)):
        raise UserError(f"{path}: {kind} holds a number that is neither a radius nor -1")
    unknown = dict.fromkeys(("sigma", "n0", "n", "alpha", "bound", "seconds"))
    return Certificates.of_log(
        name,
        {"format": FORMAT, "smoothing": kind, **unknown},
        index=images[: len(radius)],
        label=-1,
        prediction=np.where(correct, -1, -2),
        radius=np.where(correct, radius, 0.0),
        correct=correct,
    )
