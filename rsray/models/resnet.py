"""ResNets (He et al. 2016), named as in Cohen et al.'s checkpoints.

Those of CIFAR, of depth 6n + 2, and torchvision's ResNet-50 for ImageNet.
"""

# Shapes: N images, C H W an image or its features, K classes.
from __future__ import annotations

import math

from torch import Tensor, nn

from rsray.errors import UserError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: identity, or a 1x1 convolution to reshape."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """Build the block; the first convolution carries the stride."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Return the features after the block, of H/stride x W/stride pixels."""
        shortcut = features_NCHW if self.downsample is None else self.downsample(features_NCHW)
        hidden = self.relu(self.bn1(self.conv1(features_NCHW)))
        out: Tensor = self.relu(self.bn2(self.conv2(hidden)) + shortcut)
        return out


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels; global average pooling, so any image size will do."""

    def __init__(self, depth: int, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Build a network of `depth` = 6n + 2 layers; raises ValueError for another depth."""
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        # AvgPool2d(8) in the original: the same at 32 pixels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        self.apply(_initialise)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        features = self.relu(self.bn1(self.conv1(images_NCHW)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits_NK: Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits_NK


def resnet8(image_shape: tuple[int, int, int], num_classes: int) -> CifarResNet:
    """Return the 8-layer network (0.08 M parameters), for a few hundred pictures."""
    return CifarResNet(8, image_shape, num_classes)


def resnet20(image_shape: tuple[int, int, int], num_classes: int) -> CifarResNet:
    """Return the 20-layer network (0.27 M parameters)."""
    return CifarResNet(20, image_shape, num_classes)


def resnet110(image_shape: tuple[int, int, int], num_classes: int) -> CifarResNet:
    """Return the 110-layer network (1.73 M parameters)."""
    return CifarResNet(110, image_shape, num_classes)


def resnet50(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return an untrained ResNet-50; raises UserError unless the images have 3 channels.

    It divides the image size by 32, so images of less than 64 pixels leave it a single position:
    for those take resnet20 or resnet110.
    """
    if image_shape[0] != 3:
        raise UserError(f"model 'resnet50' takes images of 3 channels, got {image_shape[0]}")
    # Takes a second to import
    from torchvision.models import resnet50 as torchvision_resnet50

    network: nn.Module = torchvision_resnet50(weights=None, num_classes=num_classes)
    return network


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Return `blocks` blocks, the first of which changes width and size."""
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    """Draw convolution weights from N(0, 2 / fan_out), as the original does."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
