"""The certification actor: a counter in a process of Ray's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rsray.certification.counting.answers import read_items
from rsray.certification.counting.counter import Counter
from rsray.distributed.session import extend_search_path


@dataclass(frozen=True)
class ActorSettings:
    """What the driver sends to each actor as it starts."""

    # A reference to the CounterSettings in Ray's object store.
    counter: Any
    search_path: tuple[str, ...]


class CountingActor:
    """Counts what tasks name; one per GPU or CPU core."""

    def __init__(self, settings: ActorSettings) -> None:
        """Build the engine from what the driver sent."""
        import ray

        extend_search_path(settings.search_path)
        self.counter = Counter(ray.get(settings.counter))

    def __call__(self, task: pa.Table) -> pa.Table:
        """Return the answer to a task, as a table."""
        return self.counter.count(read_items(task)).table()
