"""LeNet: two convolutions and two linear layers, the MNIST network of the smoothing papers.

`lenet9` is a variant of our own, whose first filters average noise over more pixels: on MNIST it
learns in fewer epochs, and ends with LeNet's certified radius (tests/bench/README.md).
"""

# Shapes: N images, C H W an image or its features, K classes.
from __future__ import annotations

from torch import Tensor, nn

from rsray.models.first_convolution import FirstConvolution

# pixels; two unpadded 5x5 convolutions and poolings leave nothing of less
SMALLEST_UNPADDED = 16


class LeNet(nn.Module):
    """conv 20 5x5, conv 50 5x5, linear 500, linear K, each convolution followed by a 2x2 max-pool.

    The module names are those of MACER's published MNIST checkpoints. Images smaller than 16
    pixels are padded by 2 in each convolution.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        filters: tuple[int, int] = (20, 50),
        first_size: int = 5,
    ) -> None:
        """Size the first linear layer for images of `image_shape` = (C, H, W).

        First filters larger than 5 pixels (an odd number) are padded as much more, so that all
        behind them is as large.
        """
        super().__init__()
        channels, height, width = image_shape
        padding = 0 if min(height, width) >= SMALLEST_UNPADDED else 2
        beyond = (first_size - 5) // 2
        self.conv1 = FirstConvolution(channels, filters[0], first_size, padding=padding + beyond)
        self.conv2 = nn.Conv2d(*filters, 5, padding=padding)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        area = _left_after_two(height, padding) * _left_after_two(width, padding)
        self.fc1 = nn.Linear(filters[1] * area, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        # ReLU after the pool: the same values, a quarter of the work.
        features_NCHW = self.relu(self.pool(self.conv1(images_NCHW)))
        features_NCHW = self.relu(self.pool(self.conv2(features_NCHW)))
        logits_NK: Tensor = self.fc2(self.relu(self.fc1(features_NCHW.flatten(1))))
        return logits_NK


def lenet9(image_shape: tuple[int, int, int], num_classes: int) -> LeNet:
    """Return LeNet with 32 first filters of 9x9 pixels and 64 second ones: 1.3 times its time."""
    return LeNet(image_shape, num_classes, filters=(32, 64), first_size=9)


def _left_after_two(size: int, padding: int) -> int:
    """Return what two rounds of 5-pixel convolution and 2-pixel pooling leave of `size` pixels."""
    shrink = 4 - 2 * padding
    return ((size - shrink) // 2 - shrink) // 2
