"""Heads that several architectures end in, or are supervised through."""

from __future__ import annotations

from torch import nn

from segtasks.models._layers import conv_norm_relu


def fcn_head(before: int, num_classes: int) -> nn.Sequential:
    """3x3 convolution to a quarter of the channels, dropout 0.1, logits: torchvision's FCNHead by name, for auxiliary supervision."""
    between = max(before // 4, 1)
    return nn.Sequential(*conv_norm_relu(before, between), nn.Dropout(0.1), nn.Conv2d(between, num_classes, 1))
