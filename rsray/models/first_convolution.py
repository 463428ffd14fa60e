"""A first convolution whose gradient with respect to the images is quick to compute on a CPU."""

# Shapes: N images, C H W an image, F filters of K L pixels, h w what a filter gives.
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FirstConvolution(nn.Conv2d):
    """nn.Conv2d of stride 1 over images of few channels, for networks that attacks go through.

    PyTorch's gradient of a convolution with respect to an image of one channel takes as long as
    the rest of LeNet. Here it is one product of matrices and a sum of K x L shifted images, the
    same up to rounding. It is used where nothing of this layer is trained, on a CPU in float32: in
    the steps of an attack. Everywhere else this is nn.Conv2d.
    """

    def __init__(
        self, channels: int, filters: int, size: int | tuple[int, int], padding: int = 0
    ) -> None:
        """Make filters of `size` pixels; zeros are padded on all four sides."""
        super().__init__(channels, filters, size, padding=padding)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the filtered images [N, F, h, w]."""
        if (
            # A stand-in where the network is traced.
            isinstance(images_NCHW, Tensor)
            and images_NCHW.requires_grad
            and torch.is_grad_enabled()
            and not any(parameter.requires_grad for parameter in self.parameters())
            and images_NCHW.device.type == "cpu"
            and images_NCHW.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        ):
            filtered: Tensor = _WithQuickGradient.apply(images_NCHW, self.weight, self.bias, self)
            return filtered
        return super().forward(images_NCHW)


class _WithQuickGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(images_NCHW: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d) -> Tensor:
        filtered_NFhw: Tensor = layer._conv_forward(images_NCHW, weight, bias)
        return filtered_NFhw

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        images_NCHW, weight, _, layer = inputs
        context.image_shape, context.padding = images_NCHW.shape, layer.padding
        context.save_for_backward(weight)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_NFhw,), (weight_FCKL,) = gradients, context.saved_tensors
        N, C, H, W = context.image_shape
        F, _, K, L = weight_FCKL.shape
        top, left = context.padding
        h, w = gradient_NFhw.shape[2:]
        rows_XF = gradient_NFhw.permute(0, 2, 3, 1).reshape(-1, F)
        # What each pixel of a filter adds to the pixel of the image that it met.
        shares_CKLNhw = (weight_FCKL.reshape(F, -1).t() @ rows_XF.t()).view(C, K, L, N, h, w)
        sum_CNHW = rows_XF.new_zeros(C, N, H + 2 * top, W + 2 * left)
        for i in range(K):
            for j in range(L):
                sum_CNHW[:, :, i : i + h, j : j + w] += shares_CKLNhw[:, i, j]
        images_NCHW = sum_CNHW[:, :, top : top + H, left : left + W].transpose(0, 1)
        return images_NCHW, None, None, None
