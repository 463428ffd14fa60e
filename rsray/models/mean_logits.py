"""An ensemble as one network: the mean of its members' logits."""

# Shapes: N images, C H W an image, K classes.
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MeanLogits(nn.Module):
    """Networks that see the same images; each may normalise them first."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        """Keep the members, of which there is at least one."""
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the mean logits [N, K]."""
        first, *others = self.members
        total_NK: Tensor = first(images_NCHW)
        for member in others:
            total_NK = total_NK + member(images_NCHW)
        return total_NK / len(self.members)
