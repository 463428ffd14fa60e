"""Which images a worker sees at every step: an epoch's seeded order, shared out by position."""

# Shapes: B images of this worker's part of a batch.
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsray.training.batches.randomness import epoch_order, weighted_order


@dataclass(frozen=True)
class BatchShare:
    """A worker's part of a global batch: positions [B] of its images in the training set."""

    positions_B: Tensor
    # Their places in the global batch.
    slots: range
    global_size: int
    # The seed, the epoch and the step.
    key: tuple[int, int, int]


@dataclass(frozen=True)
class Schedule:
    """The batches of a run of `epochs` epochs, as worker `rank` of `world` sees them."""

    num_images: int
    # The size of the global batch, whatever the number of workers.
    batch_size: int
    epochs: int
    seed: int
    rank: int = 0
    world: int = 1
    # How often each image [N] is drawn in an epoch, relative to the others; None: all once.
    weights_N: Tensor | None = None

    def shares(self, epoch: int) -> list[BatchShare]:
        """Return this worker's part of every global batch of the epoch.

        A last batch of fewer images than workers is left out: no worker's part may be empty.
        """
        if self.weights_N is None:
            order = epoch_order(self.num_images, self.seed, epoch)
        else:
            order = weighted_order(self.weights_N, self.seed, epoch)
        shares = []
        for step, batch in enumerate(order.split(self.batch_size)):
            if len(batch) < self.world:
                continue
            low = len(batch) * self.rank // self.world
            high = len(batch) * (self.rank + 1) // self.world
            key = (self.seed, epoch, step)
            shares.append(BatchShare(batch[low:high], range(low, high), len(batch), key))
        return shares
