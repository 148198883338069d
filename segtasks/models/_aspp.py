"""Atrous spatial pyramid pooling with image pooling (DeepLabv3, arXiv 1706.05587, section 3.3), under torchvision's names.

Atrous rates are given at output stride 16 and scaled with it: the same rates in image pixels at every output stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtasks.models._layers import conv_norm_relu, separable_conv


class ASPP(nn.Module):
    """(N, before, h, w) -> (N, channels, h, w): a 1x1 convolution, 3x3 ones at each rate and the image's mean, projected together."""

    def __init__(self, before: int, channels: int, rates: Sequence[int], *, dropout: float, separable: bool = False) -> None:
        super().__init__()
        atrous = separable_conv if separable else conv_norm_relu
        self.convs = nn.ModuleList(
            [
                conv_norm_relu(before, channels, 1),
                *(atrous(before, channels, dilation=rate) for rate in rates),
                nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm_relu(before, channels, 1)),
            ]
        )
        self.project = nn.Sequential(*conv_norm_relu(len(self.convs) * channels, channels, 1), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        found = [conv(features) for conv in self.convs]
        found[-1] = found[-1].expand(-1, -1, *features.shape[-2:])  # one pixel upsampled
        result: Tensor = self.project(torch.cat(found, dim=1))
        return result


def scaled_rates(rates: Sequence[int], output_stride: int) -> tuple[int, ...]:
    """`rates` at output stride 16, as they are at `output_stride`: doubled at 8."""
    return tuple(rate * 16 // output_stride for rate in rates)
