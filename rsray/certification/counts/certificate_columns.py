"""Gathered counts to the columns of certificates.parquet."""

# Shapes: N selected images, T estimation blocks per image.
from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rsray.certification.counts.gathering import StoredDraws
from rsray.certification.counts.store import Selected
from rsray.certification.sampling_plan import SamplingPlan
from rsray.core.evidence import Evidence


class IncompleteError(RuntimeError):
    """Draws that the run owes are not stored."""


def certificate_columns(
    selected: Selected, evidence: Evidence, plan: SamplingPlan
) -> dict[str, NDArray[np.generic]]:
    """Return the certificates of the selected images as columns, by the plan's bound."""
    decision = plan.decide(evidence)
    return {
        "index": selected.indices,
        "label": selected.labels.astype(np.int32),
        "prediction": decision.prediction,
        "radius": decision.radius,
        "correct": decision.prediction == selected.labels,
        "p_a_lower": decision.p_a_lower,
        "p_b_upper": decision.p_b_upper,
        "count_a": decision.count_a,
        "n0": evidence.n0,
        "n": decision.n,
        "skipped": plan.skips(evidence.selected_class, selected.labels),
    }


def check_complete(selected: Selected, stored: StoredDraws, failed: Iterable[int]) -> None:
    """Raise IncompleteError naming the images whose owed blocks are not all stored.

    Those in `failed` may lack some.
    """
    is_owed_NT = np.arange(stored.estimation_NT.shape[1]) < stored.wanted_N[:, None]
    is_lacking_N = ~stored.selection_N | (is_owed_NT & ~stored.estimation_NT).any(axis=1)
    missing = np.setdiff1d(selected.indices[is_lacking_N], list(failed)).tolist()
    if missing:
        named = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise IncompleteError(f"draws of {len(missing)} images are missing: {named}")
