"""How many images a training step on a CPU can take at once: too many, and the kernel kills it."""

# Shapes: B images.
from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

# Of the free memory; the rest is for gradients, workspaces and whatever else runs.
SHARE = 0.5
# Images of the two measurements; batch norm needs more than one.
FEW, MORE = 2, 4


class SavedBytes(saved_tensors_hooks):
    """Measures the most that autograd keeps for backward passes at once in `with` blocks of it."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__(self._hold, lambda held: held.tensor)
        self.most = self.now = 0
        self._holders: dict[int, int] = {}

    def _hold(self, tensor: Tensor) -> _Held:
        """Count a storage once, however many tensors are parts of it."""
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if self._holders.setdefault(place, 0) == 0:
            self.now += size
            self.most = max(self.most, self.now)
        self._holders[place] += 1
        # With its history it would hold what holds it.
        return _Held(tensor.detach(), lambda: self._release(place, size))

    def _release(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if self._holders[place] == 0:
            self.now -= size


class _Held:
    """A tensor that is kept for a backward pass."""

    def __init__(self, tensor: Tensor, release: Callable[[], None]) -> None:
        self.tensor, self._release = tensor, release

    def __del__(self) -> None:
        self._release()


def bytes_per_image(module: nn.Module, losses_of: Callable[[nn.Module, int], Tensor]) -> float:
    """Return how much memory each further image of a step takes.

    `losses_of(module, count)` makes the forward passes of a step with so many images. It is given a
    copy: statistics of batch norm and random numbers stay as they are.
    """
    probe, most = copy.deepcopy(module), []
    with torch.random.fork_rng(devices=[]):
        for count in (FEW, MORE):
            saved = SavedBytes()
            with saved:
                losses_of(probe, count)
            most.append(saved.most)
    return max(0.0, (most[1] - most[0]) / (MORE - FEW))


def group_that_fits(image_bytes: float, num_images: int, free_bytes: float) -> int | None:
    """Return how many of the images to take at once, a power of two; None where all fit."""
    if num_images <= FEW or image_bytes * num_images <= SHARE * free_bytes:
        return None
    size = FEW
    while 2 * size < num_images and image_bytes * 2 * size <= SHARE * free_bytes:
        size *= 2
    return size
