"""What the draws of images say, as far as any bound may need it, and what is decided by it."""

# Shapes: N images, K classes.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ABSTAIN = -1


@dataclass(frozen=True)
class Reused:
    """What is known of the selected class [N each] by an earlier network's counts and by pairs."""

    # Estimation draws of the earlier network that are no pairs, all and those of the class.
    n: Ints
    hits: Ints
    # Draws that both networks made, all and those that the earlier one alone gave the class.
    pairs: Ints
    lost: Ints
    # The latter in the selection draws, which are pairs too.
    lost_in_selection: Ints


@dataclass(frozen=True)
class Evidence:
    """The counts of N images [N each], reduced to the selected class and the runner-up.

    The selected class is the most frequent of the selection draws (soft: of the largest mean
    probability), the lowest on a tie, and -1 without selection draws.
    """

    selected_class: Ints
    n0: Ints
    # Selection draws of the selected class (soft: the sum of its probabilities), and of the next.
    selection_hits: Floats
    selection_runner_up: Floats
    n: Ints
    # Estimation draws of the selected class, and of the most frequent other class.
    hits: Ints
    runner_up: Ints
    # Soft probabilities of the selected class in the estimation draws, and their squares, summed.
    sums: Floats
    square_sums: Floats
    # A number in (0, 1] that the draws do not influence, for a randomized bound; 1 leaves it plain.
    uniform: Floats | float = 1.0
    # Where the counts of an earlier network are used too.
    reused: Reused | None = None

    @classmethod
    def of_counts(
        cls, selection_NK: NDArray[np.integer], estimation_NK: NDArray[np.integer]
    ) -> Evidence:
        """Return the evidence in tables of class counts; it holds no soft sums."""
        selection_NK, estimation_NK = np.asarray(selection_NK), np.asarray(estimation_NK)
        n0_N = selection_NK.sum(axis=1)
        top_N = np.where(n0_N > 0, selection_NK.argmax(axis=1), -1)
        selection_hits_N, selection_next_N = hits_and_runner_up(selection_NK, top_N)
        hits_N, next_N = hits_and_runner_up(estimation_NK, top_N)
        nothing_N = np.zeros(len(top_N))
        return cls(
            top_N, n0_N, selection_hits_N.astype(float), selection_next_N.astype(float),
            estimation_NK.sum(axis=1), hits_N, next_N, nothing_N, nothing_N,
        )  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What the draws of N images say: prediction (-1 = abstain), radius in pixels, bounds."""

    prediction: NDArray[np.int32]
    radius: NDArray[np.float64]
    p_a_lower: NDArray[np.float64]
    p_b_upper: NDArray[np.float64]
    count_a: NDArray[np.int64]
    n: NDArray[np.int64]


def hits_and_runner_up(counts_NK: NDArray[np.integer], class_N: Ints) -> tuple[Ints, Ints]:
    """Return each image's count of the class named for it (0 for -1), and the largest other."""
    is_it_NK = np.arange(counts_NK.shape[1]) == class_N[:, None]
    hits_N = np.where(is_it_NK, counts_NK, 0).sum(axis=1)
    return hits_N, np.where(is_it_NK, 0, counts_NK).max(axis=1, initial=0)
