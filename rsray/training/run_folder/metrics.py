"""metrics.jsonl (a line per epoch) and TensorBoard events."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from rsray.storage import Place
from rsray.storage.records import from_json, read_as

METRICS_FILE = "metrics.jsonl"


class EpochFigures(BaseModel):
    """A line of metrics.jsonl; a training that diverges has losses that are no numbers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")
    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    epoch: int = Field(ge=0)
    noisy_accuracy: float | None = None


LINE = TypeAdapter(EpochFigures)


def read_metrics(run: Place) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl; none if there is no file yet."""
    if not run.exists(METRICS_FILE):
        return []
    found = []
    for number, line in enumerate(run.read(METRICS_FILE).splitlines(), start=1):
        if line.strip():
            name = f"{run / METRICS_FILE}, line {number}"
            found.append(from_json(line, name, finite=False))
            read_as(LINE, found[-1], name)
    return found


class MetricsLog:
    """Keeps the lines of a run; a run that continues drops the lines of epochs it does again."""

    def __init__(self, run: Place, epochs_done: int) -> None:
        """Read what an earlier start left, up to the epoch that is resumed."""
        self._run = run
        self.lines = [figures for figures in read_metrics(run) if figures["epoch"] < epochs_done]
        self._events: Any = None

    def add(self, figures: dict[str, Any]) -> None:
        """Append an epoch's figures; `figures` has `epoch` and plain numbers."""
        self.lines.append(figures)
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        self._run.write(METRICS_FILE, text.encode())
        if self._run.is_local:
            self._add_events(figures)

    def _add_events(self, figures: dict[str, Any]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = (self._run / "tensorboard").make()
            self._events = SummaryWriter(str(folder.local_path), purge_step=figures["epoch"])
        for key, value in figures.items():
            if key != "epoch" and value is not None:
                self._events.add_scalar(key, value, figures["epoch"])
        self._events.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()
