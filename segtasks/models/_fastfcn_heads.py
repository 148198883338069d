"""The heads of FastFCN, from the joint pyramid to the logits. Each gives logits and, if it predicts that, which classes are present."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.models._aspp import ASPP, scaled_rates
from segtasks.models._encoding import ContextEncoding
from segtasks.models._layers import conv_norm_relu

HeadName = Literal["fcn", "psp", "encnet", "aspp"]


def build_head(name: HeadName, before: int, num_classes: int, *, codewords: int, presence: bool) -> nn.Module:
    """A module (N, before, h, w) -> (logits (N, num_classes, h, w), None or logits (N, num_classes) of presence).

    `codewords` and `presence` (to predict it) are for `encnet`.
    """
    between = before // 4
    if name == "encnet":
        return _EncNet(before, between, num_classes, codewords, presence)
    if name == "psp":
        return _Plain(PyramidPooling(before), *conv_norm_relu(2 * before, between), *_logits(between, num_classes))
    if name == "aspp":
        between = before // 8
        aspp = ASPP(before, between, scaled_rates((6, 12, 18), 8), dropout=0.5)
        return _Plain(aspp, *conv_norm_relu(between, between), *_logits(between, num_classes))
    return _Plain(*conv_norm_relu(before, between), *_logits(between, num_classes))


class _Plain(nn.Sequential):
    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        for layer in self:
            features = layer(features)
        return features, None


class _EncNet(nn.Module):
    def __init__(self, before: int, between: int, num_classes: int, codewords: int, presence: bool) -> None:
        super().__init__()
        self.reduce = conv_norm_relu(before, between, 1)
        self.context = ContextEncoding(between, codewords, num_classes if presence else None)
        self.logits = nn.Sequential(*_logits(between, num_classes))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        features, presence = self.context(self.reduce(features))
        return self.logits(features), presence


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


def _logits(before: int, num_classes: int) -> tuple[nn.Module, nn.Module]:
    return nn.Dropout2d(0.1), nn.Conv2d(before, num_classes, 1)
