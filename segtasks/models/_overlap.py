"""Unpadded convolutions on whole images (U-Net, figure 2): the image is continued by mirroring, and the net crops what it loses.

Two 3x3 convolutions take 2 pixels a side, at level l of `depth` those are 2 x 2^l of the image: 6 x 2^depth - 4 in all, 92 at depth 4.
"""

from __future__ import annotations

import torch
from torch import Tensor


def continued(image_NCHW: Tensor, depth: int) -> Tensor:
    """`image` mirrored on all sides, the edge not repeated, to the next size that gives logits of at least its own; any H, W >= 1."""
    margin = 6 * (1 << depth) - 4
    for axis in (2, 3):
        length = image_NCHW.shape[axis]
        total = output_size(length, depth) + 2 * margin
        # a tensor, since the exporter to ONNX has no remainder by a number that depends on the size
        period = torch.full((1,), max(2 * length - 2, 1), device=image_NCHW.device)
        position = (torch.arange(total, device=image_NCHW.device) - margin).remainder(period)
        image_NCHW = image_NCHW.index_select(axis, torch.minimum(position, period - position))
    return image_NCHW


def output_size(length: int, depth: int) -> int:
    """The smallest side of the logits that `depth` poolings without remainder allow, of `length` or more."""
    step = 1 << depth
    lost = 4 * (step - 1)  # by the expanding path's convolutions
    return (length + lost + step - 1) // step * step - lost  # of positive numbers: in ONNX division does not round down


def skip_crop(levels_below: int) -> int:
    """Pixels a side by which a skip connection is larger than what comes from `levels_below` levels of pooling: 4, 16, 40, 88."""
    return 6 * (1 << levels_below) - 8
