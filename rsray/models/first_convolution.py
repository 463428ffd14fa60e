"""A first convolution whose gradient with respect to the images is quick to compute on a CPU."""

# Shapes: N images, C H W an image, F filters of K L pixels, h w what a filter gives.
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FirstConvolution(nn.Conv2d):
    """nn.Conv2d of stride 1 over images of few channels, for networks that attacks go through.

    PyTorch's gradient of a convolution with respect to an image of one channel takes as long as
    the rest of LeNet. Here it is one product of matrices and a sum of K x K shifted images, the
    same up to rounding. It is used where no gradient of the weights is wanted, on a CPU in
    float32: in the steps of an attack. Everywhere else this is nn.Conv2d.
    """

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the filtered images [N, F, H', W']."""
        if (
            images_NCHW.requires_grad
            and torch.is_grad_enabled()
            and not self.weight.requires_grad
            and images_NCHW.device.type == "cpu"
            and images_NCHW.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        ):
            filtered: Tensor = _WithQuickGradient.apply(images_NCHW, self)
            return filtered
        return super().forward(images_NCHW)


class _WithQuickGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, images_NCHW: Tensor, layer: FirstConvolution) -> Tensor:
        context.layer, context.weight = layer, layer.weight
        context.image_shape = images_NCHW.shape
        return nn.Conv2d.forward(layer, images_NCHW)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_NFhw,) = gradients
        N, C, H, W = context.image_shape
        F, _, K, L = context.weight.shape
        top, left = context.layer.padding
        h, w = gradient_NFhw.shape[2:]
        rows_XF = gradient_NFhw.permute(0, 2, 3, 1).reshape(-1, F)
        # What each pixel of a filter adds to the pixel of the image that it met.
        shares_CKLNhw = (context.weight.reshape(F, -1).t() @ rows_XF.t()).view(C, K, L, N, h, w)
        sum_CNHW = rows_XF.new_zeros(C, N, H + 2 * top, W + 2 * left)
        for i in range(K):
            for j in range(L):
                sum_CNHW[:, :, i : i + h, j : j + w] += shares_CKLNhw[:, i, j]
        return sum_CNHW[:, :, top : top + H, left : left + W].transpose(0, 1), None
