"""Where in an epoch a run is, in a small file of RUN: its driver may be on another machine."""

from __future__ import annotations

import json
import time

from rsray.storage import Place
from rsray.training.loop import Progress

STEP_FILE = "step.json"
WRITE_EVERY_SECONDS = 20.0
FIELDS = ("epoch", "epochs", "step", "steps", "draws")


class StepRecord:
    """Writes the file from time to time; for the first worker of a group."""

    def __init__(self, run: Place) -> None:
        """Write into this RUN; nothing before a while has passed."""
        self.run, self.written = run, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Write where training is, if it is time."""
        if progress.epoch_figures or time.monotonic() - self.written < WRITE_EVERY_SECONDS:
            return
        place = {name: getattr(progress, name) for name in FIELDS}
        self.run.write(STEP_FILE, json.dumps(place).encode())
        self.written = time.monotonic()


def read_step(run: Place) -> Progress | None:
    """Return where the file says that training is; None where there is none, or it is damaged."""
    if not run.exists(STEP_FILE):
        return None
    try:
        return Progress(**json.loads(run.read(STEP_FILE)))
    except (TypeError, ValueError):
        return None
