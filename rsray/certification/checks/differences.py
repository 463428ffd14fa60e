"""What stands in a file and what it should be, named one by one."""

# Shapes: N images.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Floats that differ by less, relatively or of numbers below 1, are the same where they need not be
# equal: other libraries and systems round otherwise in the last bits.
SAME = 1e-9
# Of the figures, whose smallest is how far noise is from exact: the difference of those near 0.
SAME_NEAR_ZERO = 1e-15


@dataclass(frozen=True)
class Difference:
    """One value of a CERT that is not what it should be."""

    file: str
    what: str
    stored: Any
    expected: Any

    def __str__(self) -> str:
        """Return the difference as a line."""
        return f"{self.file}: {self.what} is {self.stored}, not {self.expected}"


def value_differences(
    file: str,
    stored: Mapping[str, Any],
    expected: Mapping[str, Any],
    what: str = "",
    *,
    is_exact: bool = False,
) -> Iterator[Difference]:
    """Yield the differences of two mappings, whose values may be mappings, by the names of keys.

    Floats must be equal if that `is_exact`, else nearly so.
    """
    for key in dict.fromkeys([*expected, *stored]):
        name = f"{what} {key}".strip()
        mine, right = stored.get(key, "missing"), expected.get(key, "missing")
        if isinstance(mine, Mapping) and isinstance(right, Mapping):
            yield from value_differences(file, mine, right, name, is_exact=is_exact)
        elif not _is_same(mine, right, is_exact):
            yield Difference(file, name, mine, right)


def _is_same(stored: Any, expected: Any, is_exact: bool) -> bool:
    if isinstance(stored, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(stored, expected, strict=False)
        return len(stored) == len(expected) and all(_is_same(a, b, is_exact) for a, b in pairs)
    if isinstance(stored, bool) != isinstance(expected, bool):
        return False
    if isinstance(expected, float) and isinstance(stored, int | float) and not is_exact:
        return abs(stored - expected) <= SAME * abs(expected) + SAME_NEAR_ZERO
    return bool(stored == expected)


def column_differences(
    file: str,
    index_N: NDArray[np.int64],
    stored: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    *,
    is_exact: bool = False,
) -> Iterator[Difference]:
    """Yield the differences of the columns of a table, image by image, as `value_differences`."""
    for name, right_N in expected.items():
        mine_N = stored[name]
        if right_N.dtype.kind == "f" and not is_exact:
            # What is no number is unlike every number.
            is_same_N = np.abs(mine_N - right_N) <= SAME * np.maximum(1.0, np.abs(right_N))
        else:
            is_same_N = mine_N == right_N
        for at in np.flatnonzero(~is_same_N).tolist():
            what = f"{name} of image {index_N[at]}"
            yield Difference(file, what, mine_N[at].item(), right_N[at].item())
