"""Confidence bounds of a probability, from hits or moments of n draws: one file per bound.

The functions are vectorised in float64. "With probability at least 1 - alpha over the draws" is
meant for each element on its own. Nothing is loaded before it is used, so that the names of the
bounds can be listed without numpy.
"""

from typing import TYPE_CHECKING

from rsray.errors import UserError
from rsray.family import Family, lazy_names

if TYPE_CHECKING:
    from rsray.core.bounds._base import Bound
    from rsray.core.bounds.bernstein import bernstein_lower
    from rsray.core.bounds.clopper_pearson import clopper_pearson_lower, clopper_pearson_upper
    from rsray.core.bounds.confidence_sequence import sequence_lower
    from rsray.core.bounds.hoeffding import hoeffding_lower
    from rsray.core.bounds.randomized_clopper_pearson import randomized_clopper_pearson_lower

# Of smaller ones scipy's inverse of the incomplete beta function is not a number for some counts.
LEAST_ALPHA = 1e-100

BOUNDS: "Family[Bound]" = Family(
    "bound",
    {
        "clopper-pearson": "rsray.core.bounds.clopper_pearson:CLOPPER_PEARSON",
        "randomized-clopper-pearson": "rsray.core.bounds.randomized_clopper_pearson:"
        "RANDOMIZED_CLOPPER_PEARSON",
        "tcertify": "rsray.core.bounds.tcertify:TCERTIFY",
        "hoeffding": "rsray.core.bounds.hoeffding:HOEFFDING",
        "bernstein": "rsray.core.bounds.bernstein:BERNSTEIN",
    },
)
__getattr__ = lazy_names(
    {
        "clopper_pearson_lower": "rsray.core.bounds.clopper_pearson",
        "clopper_pearson_upper": "rsray.core.bounds.clopper_pearson",
        "randomized_clopper_pearson_lower": "rsray.core.bounds.randomized_clopper_pearson",
        "hoeffding_lower": "rsray.core.bounds.hoeffding",
        "bernstein_lower": "rsray.core.bounds.bernstein",
        "sequence_lower": "rsray.core.bounds.confidence_sequence",
    }
)
__all__ = [
    "BOUNDS", "LEAST_ALPHA", "bernstein_lower", "check_settings", "clopper_pearson_lower",
    "clopper_pearson_upper", "hoeffding_lower", "randomized_clopper_pearson_lower",
    "sequence_lower",
]  # fmt: skip


def check_settings(n: int, alpha: float, n0: int = 1, bound: str = "clopper-pearson") -> None:
    """Raise UserError for n0, n or alpha with which nothing could ever be certified."""
    if not LEAST_ALPHA <= alpha < 1:
        raise UserError(
            f"alpha is {alpha}: it must be below 1 and at least {LEAST_ALPHA}, for example 0.001"
        )
    if n0 < 1:
        raise UserError(f"n0 is {n0}: selection needs at least 1 draw, for example 100")
    least = BOUNDS[bound].smallest_useful_n(alpha)
    if n < least:
        by = f" by the {bound} bound" if BOUNDS[bound].is_soft else ""
        raise UserError(
            f"n is {n}: even if every draw hit, nothing could be certified at alpha {alpha}{by}; "
            f"n must be at least {least} (the field uses 100000)"
        )
