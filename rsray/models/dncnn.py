"""DnCNN: predicts the noise in an image and takes it off (Zhang et al., TIP 2017)."""

# Shapes: N images, C H W an image.
from __future__ import annotations

from torch import Tensor, nn


class DnCNN(nn.Module):
    """Convolutions of 3x3 at full size, batch norm between them; any image size will do."""

    def __init__(self, depth: int, width: int, image_shape: tuple[int, int, int]) -> None:
        """Build `depth` convolutions with `width` channels inside."""
        super().__init__()
        channels = image_shape[0]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        last = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        # It begins as the identity, whose error no learning rate makes worse at once.
        nn.init.zeros_(last.weight)
        self.noise = nn.Sequential(*layers, last)

    def forward(self, noisy_NCHW: Tensor) -> Tensor:
        """Return the denoised images [N, C, H, W]."""
        out_NCHW: Tensor = noisy_NCHW - self.noise(noisy_NCHW)
        return out_NCHW


def dncnn6(image_shape: tuple[int, int, int]) -> DnCNN:
    """Return a denoiser of 6 layers and 32 channels (0.04 M parameters), for small images."""
    return DnCNN(6, 32, image_shape)


def dncnn17(image_shape: tuple[int, int, int]) -> DnCNN:
    """Return the paper's denoiser of 17 layers and 64 channels (0.56 M parameters)."""
    return DnCNN(17, 64, image_shape)
