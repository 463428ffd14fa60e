"""Class counts of many images, held sparsely: memory follows the classes seen, not K times N.

Sums of soft probabilities are held in the same way, as float64.
"""

# Shapes: N images, E (image, class) pairs that were seen, sorted by image and class.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Values = NDArray[Any]  # int64 counts, or float64 sums


@dataclass(frozen=True)
class ClassCounts:
    """Counts of the classes that each image's draws fell in, in compressed rows."""

    offsets: Ints  # [N + 1]: image i's pairs are offsets[i] : offsets[i + 1]
    classes_E: Ints
    counts_E: Values

    @classmethod
    def gather(cls, num_images: int, image_E: Ints, class_E: Ints, count_E: Values) -> ClassCounts:
        """Return the sums of counts by (image, class); the triples may come in any order."""
        order = np.lexsort((class_E, image_E))
        image_E, class_E, count_E = image_E[order], class_E[order], count_E[order]
        is_new = np.ones(len(image_E), dtype=bool)
        is_new[1:] = (np.diff(image_E) != 0) | (np.diff(class_E) != 0)
        starts = np.flatnonzero(is_new)
        sums = np.add.reduceat(count_E, starts) if len(starts) else count_E[:0]
        offsets = np.searchsorted(image_E[starts], np.arange(num_images + 1))
        kept = sums if sums.dtype.kind == "f" else sums.astype(np.int64)
        return cls(offsets.astype(np.int64), class_E[starts], kept)

    @classmethod
    def dense(cls, counts_NK: NDArray[np.integer]) -> ClassCounts:
        """Return the same counts from a dense table."""
        image_E, class_E = np.nonzero(counts_NK)
        return cls.gather(len(counts_NK), image_E, class_E, np.asarray(counts_NK)[image_E, class_E])

    @property
    def num_images(self) -> int:
        """The number of images N."""
        return len(self.offsets) - 1

    @property
    def image_E(self) -> Ints:
        """The image of each pair [E]."""
        return np.repeat(np.arange(self.num_images), np.diff(self.offsets))

    def totals(self) -> Ints:
        """Return each image's number of draws [N]."""
        sums = np.concatenate(([0], np.cumsum(self.counts_E)))
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]

    def top(self) -> Ints:
        """Return each image's most frequent class [N]; the lowest on a tie, -1 without draws."""
        top_N = np.full(self.num_images, -1, dtype=np.int64)
        has_draws = np.diff(self.offsets) > 0
        if not has_draws.any():
            return top_N
        most = np.maximum.reduceat(self.counts_E, self.offsets[:-1][has_draws])
        is_most = np.flatnonzero(self.counts_E == np.repeat(most, np.diff(self.offsets)[has_draws]))
        image = self.image_E[is_most]
        first = is_most[np.flatnonzero(np.diff(image, prepend=-1))]  # classes ascend within a row
        top_N[has_draws] = self.classes_E[first]
        return top_N

    def of(self, class_N: Ints) -> Values:
        """Return each image's count of the class named for it [N]; 0 for a class not seen."""
        is_it = self.classes_E == class_N[self.image_E]
        return np.bincount(
            self.image_E[is_it], weights=self.counts_E[is_it], minlength=self.num_images
        ).astype(self.counts_E.dtype)

    def num_seen(self) -> Ints:
        """Return how many classes each image's draws fell in [N]."""
        seen = self.image_E[self.counts_E > 0]
        return np.bincount(seen, minlength=self.num_images).astype(np.int64)

    def rows(self, chosen_N: NDArray[Any]) -> ClassCounts:
        """Return the counts of some images, given by ascending position or by mask."""
        lengths_N = np.diff(self.offsets)
        is_chosen = np.zeros(self.num_images, dtype=bool)
        is_chosen[chosen_N] = True
        keep = np.repeat(is_chosen, lengths_N)
        offsets = np.concatenate(([0], np.cumsum(lengths_N[is_chosen])))
        return ClassCounts(offsets.astype(np.int64), self.classes_E[keep], self.counts_E[keep])

    def without(self, class_N: Ints) -> ClassCounts:
        """Return the counts of all classes but the one named for each image."""
        keep = self.classes_E != class_N[self.image_E]
        image_E = self.image_E[keep]
        offsets = np.searchsorted(image_E, np.arange(self.num_images + 1)).astype(np.int64)
        return ClassCounts(offsets, self.classes_E[keep], self.counts_E[keep])
