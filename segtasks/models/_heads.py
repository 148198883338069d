"""Heads that several architectures end in, or are supervised through."""

from __future__ import annotations

from torch import nn

from segtasks.models._layers import conv_norm_relu


def conv_head(before: int, between: int, num_classes: int, dropout: float) -> nn.Sequential:
    """3x3 convolution, dropout, logits."""
    return nn.Sequential(*conv_norm_relu(before, between), nn.Dropout(dropout), nn.Conv2d(between, num_classes, 1))


def fcn_head(before: int, num_classes: int) -> nn.Sequential:
    """`conv_head` with a quarter of the channels and dropout 0.1: torchvision's FCNHead by name, for auxiliary supervision."""
    return conv_head(before, max(before // 4, 1), num_classes, 0.1)
