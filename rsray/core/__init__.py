"""The mathematics of randomized smoothing: torch, numpy, scipy and mpmath only."""

from typing import Any

from rsray.family import Family

# What is added to an image of a certificate; each member is made by `of(sigma)`.
NOISES: Family[Any] = Family(
    "noise",
    {"grid": "rsray.core.grid_noise:GridNoise", "float": "rsray.core.noise:FloatNoise"},
)
