"""Stored counts to the columns of certificates.parquet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsray.certification.plan import Done, wants_estimation
from rsray.certification.store import Selected
from rsray.core.counts import ClassCounts
from rsray.core.decide import certify_hard


class IncompleteError(RuntimeError):
    """Draws that the run owes are not stored."""


def certificate_columns(
    selected: Selected,
    selection: ClassCounts,
    estimation: ClassCounts,
    *,
    sigma: float,
    alpha: float,
    sampling: str,
) -> dict[str, NDArray[np.generic]]:
    """Return the certificates of the selected images as columns, by Cohen's CERTIFY."""
    decision = certify_hard(selection, estimation, sigma=sigma, alpha=alpha)
    skipped = np.array(
        [
            not wants_estimation(top, label, sampling)
            for top, label in zip(selection.top().tolist(), selected.labels.tolist(), strict=True)
        ],
        dtype=bool,
    )
    return {
        "index": selected.indices,
        "label": selected.labels.astype(np.int32),
        "prediction": decision.prediction,
        "radius": decision.radius,
        "correct": decision.prediction == selected.labels,
        "p_a_lower": decision.p_a_lower,
        "p_b_upper": decision.p_b_upper,
        "count_a": decision.count_a,
        "n0": selection.totals(),
        "n": decision.n,
        "skipped": skipped,
    }


def check_complete(selected: Selected, done: Done, sampling: str, failed: dict[int, str]) -> None:
    """Raise IncompleteError naming the images whose owed blocks are not all stored."""
    wants = np.array(
        [
            wants_estimation(top, label, sampling)
            for top, label in zip(
                done.selected_class_N.tolist(), selected.labels.tolist(), strict=True
            )
        ],
        dtype=bool,
    )
    lacking = ~done.selection_N | (wants & ~done.estimation_NT.all(axis=1))
    missing = [index for index in selected.indices[lacking].tolist() if index not in failed]
    if missing:
        named = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise IncompleteError(f"draws of {len(missing)} images are missing: {named}")
