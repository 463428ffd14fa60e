"""What results look like, by name: each member draws results as a matplotlib figure."""

from __future__ import annotations

from typing import Any

from rsray.family import Family

# Each is called with results and a Style.
PLOTS: Family[Any] = Family(
    "plot",
    {
        "accuracy": "rsray.results.plots.accuracy:draw",
        "p-a": "rsray.results.plots.probability:draw",
        "classes": "rsray.results.plots.classes:draw",
        "draws": "rsray.results.plots.draws:draw",
    },
)
