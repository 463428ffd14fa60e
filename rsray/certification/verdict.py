"""Stored counts to the columns of certificates.parquet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsray.certification.plan import Done, wants_estimation
from rsray.certification.store import Selected
from rsray.core.bounds import SOFT_BOUNDS
from rsray.core.bounds.tcertify import certify_tcertify
from rsray.core.counts import ClassCounts
from rsray.core.decide import Moments, certify_at_radii, certify_hard, certify_soft


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
    bound: str = "clopper-pearson",
    num_classes: int = 2,
    at_radius: tuple[float, ...] = (),
    moments: Moments | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Return the certificates of the selected images as columns, by the bound that is named.

    `num_classes` is needed for tcertify, `moments` for soft bounds.
    """
    chosen = selection.top()
    if at_radius:
        decision = certify_at_radii(
            selection, estimation, sigma=sigma, alpha=alpha, at_radius=at_radius
        )
    elif bound in SOFT_BOUNDS:
        if moments is None:
            raise ValueError(f"the {bound} bound needs sums of soft probabilities")
        chosen = moments.selection_sums.top()
        decision = certify_soft(moments, sigma=sigma, alpha=alpha, bound=bound)
    elif bound == "tcertify":
        decision = certify_tcertify(
            selection, estimation, sigma=sigma, alpha=alpha, num_classes=num_classes
        )
    else:
        decision = certify_hard(selection, estimation, sigma=sigma, alpha=alpha)
    skipped = np.array(
        [
            not wants_estimation(top, label, sampling)
            for top, label in zip(chosen.tolist(), selected.labels.tolist(), strict=True)
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
    stored_NT = done.estimation_NT
    if done.wanted_N is not None:
        stored_NT = stored_NT | (np.arange(stored_NT.shape[1]) >= done.wanted_N[:, None])
    lacking = ~done.selection_N | (wants & ~stored_NT.all(axis=1))
    missing = [index for index in selected.indices[lacking].tolist() if index not in failed]
    if missing:
        named = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise IncompleteError(f"draws of {len(missing)} images are missing: {named}")
