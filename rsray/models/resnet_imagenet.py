"""ResNet-50 for ImageNet: torchvision's, with the module names of the published checkpoints."""

# Shapes: N images, C H W an image, K classes.
from __future__ import annotations

from torch import nn

from rsray.errors import UserError


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
