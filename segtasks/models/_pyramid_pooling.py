"""Pyramid pooling (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017): beside each position what the image's parts hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.models._layers import conv_norm_relu


class PyramidPooling(nn.Module):
    """(N, C, h, w) -> (N, 2 C, h, w): the features beside their means over grids of 1, 2, 3 and 6 (Zhao et al., PSPNet, CVPR 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.grids = (1, 2, 3, 6)
        self.convs = nn.ModuleList(conv_norm_relu(channels, channels // 4, 1) for _ in self.grids)

    def forward(self, features: Tensor) -> Tensor:
        found = [features]
        for grid, conv in zip(self.grids, self.convs, strict=True):
            # not `resize`: an exported net must not remember that its example happened to have the grid's size
            means = conv(grid_means(features, grid))
            found.append(F.interpolate(means, size=features.shape[-2:], mode="bilinear", align_corners=False))
        return torch.cat(found, dim=1)


def grid_means(features: Tensor, grid: int) -> Tensor:
    """AdaptiveAvgPool2d(grid) as two products with matrices, so that it goes into ONNX at any size."""
    rows, columns = (_windows(size, grid, features) for size in features.shape[-2:])
    return rows @ features @ columns.t()


def _windows(size: int, grid: int, like: Tensor) -> Tensor:
    """(grid, size): row i averages positions floor(i size / grid) to ceil((i + 1) size / grid), the end left out."""
    number = torch.arange(grid, device=like.device).unsqueeze(1)
    start, end = number * size // grid, ((number + 1) * size + grid - 1) // grid
    position = torch.arange(size, device=like.device)
    return ((position >= start) & (position < end)).to(like.dtype) / (end - start).to(like.dtype)
