"""T-CERTIFY: a two-sided radius from bounds of the top class and of the runner-up.

ADRE paper (Feng et al. 2020), Algorithm 2 and Proposition 1, with a simpler and tighter bound of
the runner-up: the true runner-up is ONE fixed class, whose count is at most the largest count among
the other classes. Clopper-Pearson's upper bound grows with the count, so that of the largest count
holds for it: no sum over the classes is needed.
"""

# Shapes: N images, D distinct images, G grid points of alpha'.
from __future__ import annotations

import numpy as np

from rsray.core.bounds._base import Floats
from rsray.core.bounds.clopper_pearson import (
    ClopperPearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from rsray.core.evidence import ABSTAIN, Decision, Evidence
from rsray.core.radius import certified_radius, two_sided_radius

# alpha'/alpha, as in the paper's experiments; 1 is Clopper-Pearson alone, and first: it wins a tie.
SHARES = (1.0, *(tenth / 10 for tenth in range(9, 0, -1)))


class TCertify(ClopperPearson):
    """Bounds p_A at level alpha' and p_B at alpha - alpha'; one-sided where that gives more.

    Because alpha' is chosen from the selection draws, which are independent of the estimation
    draws, both bounds hold with probability at least 1 - alpha over an image's draws. As in the
    paper, images whose bound of p_A is at most 1/2 abstain.
    """

    name = "tcertify"
    needs_runner_up = True

    def decide(
        self, evidence: Evidence, *, sigma: float, alpha: float, total_variation: float = 0.0
    ) -> Decision:
        """Return T-CERTIFY's certificates of N images; the guarantee is that of `Bound.decide`."""
        level_N = choose_alpha(evidence, alpha)
        p_a = clopper_pearson_lower(evidence.hits, evidence.n, level_N)
        p_a = np.maximum(p_a - total_variation, 0.0)
        is_two_sided = (p_a > 0.5) & (level_N < alpha)
        p_b = 1.0 - p_a
        p_b[is_two_sided] = np.minimum(
            p_b[is_two_sided],
            clopper_pearson_upper(
                evidence.runner_up[is_two_sided],
                evidence.n[is_two_sided],
                alpha - level_N[is_two_sided],
            )
            + total_variation,
        )
        is_wider = p_b < 1.0 - p_a
        radius = np.where(is_wider, two_sided_radius(p_a, p_b, sigma), certified_radius(p_a, sigma))
        return Decision(
            prediction=np.where(p_a > 0.5, evidence.selected_class, ABSTAIN).astype(np.int32),
            radius=radius,
            p_a_lower=p_a,
            p_b_upper=p_b,
            count_a=evidence.hits,
            n=evidence.n,
        )


def choose_alpha(evidence: Evidence, alpha: float) -> Floats:
    """Return alpha' [N] of each image: that with the largest radius to be expected.

    The radius is that of n draws which fall as the selection draws did. Any choice is sound, for
    the selection draws are independent of those that are bounded.
    """
    pilot = (evidence.n0, evidence.selection_hits, evidence.selection_runner_up, evidence.n)
    distinct, inverse = np.unique(np.stack(pilot, axis=1), axis=0, return_inverse=True)
    n0, hits, runner_up, n = distinct.astype(np.float64).T
    share_G1 = np.array(SHARES)[:, None]
    # p_A is shrunk towards 1/2, so that it is never quite 1; what is left goes to the others.
    p_a = (hits + 0.5) / (n0 + 1.0)
    p_b = np.where(hits < n0, (1.0 - p_a) * runner_up / np.maximum(n0 - hits, 1.0), 1.0 - p_a)
    lower_GD = clopper_pearson_lower(np.round(p_a * n), n, share_G1 * alpha)
    rest_G1 = np.where(share_G1 < 1.0, (1.0 - share_G1) * alpha, 0.5)
    upper_GD = clopper_pearson_upper(np.round(p_b * n), n, rest_G1)
    upper_GD = np.where(share_G1 < 1.0, upper_GD, 1.0)
    radius_GD = np.where(lower_GD > 0.5, two_sided_radius(lower_GD, upper_GD, 1.0), 0.0)
    best_D = share_G1[radius_GD.argmax(axis=0), 0]
    return np.asarray(alpha * best_D[inverse.ravel()])


TCERTIFY = TCertify()
