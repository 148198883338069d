"""Layers and steps that several architectures are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that trains on one value a channel too (a pooled image in a batch of one), normalised by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(input)


def conv_norm(before: int, after: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size (at stride 1), and BatchNorm right after it, so that it can be folded."""
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, BatchNorm(after))


def conv_norm_relu(before: int, after: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """`conv_norm` and ReLU."""
    return nn.Sequential(*conv_norm(before, after, kernel, stride=stride, dilation=dilation, groups=groups), nn.ReLU(inplace=True))


def separable_conv(before: int, after: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A depthwise convolution and a 1x1 convolution, each with BatchNorm and ReLU."""
    return nn.Sequential(
        conv_norm_relu(before, before, kernel, stride=stride, dilation=dilation, groups=before), conv_norm_relu(before, after, 1)
    )


def resize(features_NCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, pixel centres aligned as in `align_corners=False`; the tensor itself where the size fits already."""
    if features_NCHW.shape[-2:] == torch.Size(size):
        return features_NCHW
    return F.interpolate(features_NCHW, size=(size[0], size[1]), mode="bilinear", align_corners=False)


def pad_to_multiple(image_NCHW: Tensor, multiple: int) -> Tensor:
    """Pad at the bottom and right, repeating the edge, to sides that are multiples of `multiple`."""
    height, width = image_NCHW.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(image_NCHW, (0, right, 0, bottom), mode="replicate") if bottom or right else image_NCHW


def he_normal(module: nn.Module) -> None:
    """For `nn.Module.apply`: He normal weights, zero biases, BatchNorm at the identity."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
