"""What results look like, by name: each member draws results as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rsray.family import Family

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rsray.results.certificates import Certificates
    from rsray.results.plots.style import Style

Drawn = Callable[["Sequence[Certificates]", "Style"], "Figure"]
PLOTS: Family[Drawn] = Family(
    "plot",
    {
        "accuracy": "rsray.results.plots.accuracy:draw",
        "p-a": "rsray.results.plots.probability:draw",
        "classes": "rsray.results.plots.classes:draw",
        "draws": "rsray.results.plots.draws:draw",
    },
)
