"""OHEM cross-entropy (Shrivastava, Gupta and Girshick, CVPR 2016): cross-entropy of the pixels that are hard, and at least of so many.

For data in which most pixels are easy, in the form that MMSegmentation, HRNet and BiSeNet have; costs what cross-entropy does. Pixels
count whose own class has a probability below `threshold`, and at least the `min_kept` hardest of the batch (in distributed training: of the
rank's part of it). The paper's examples are regions, of which it takes a fixed number. The mean runs over the kept pixels (MMSegmentation
divides by all pixels, so that its loss shrinks with their number).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.losses._hard import hardest
from segtasks.losses._weights import ClassWeights, class_weights
from segtasks.losses.cross_entropy import CrossEntropy
from segtasks.spec import DatasetSpec


class Config(ClassWeights):
    """OHEM cross-entropy; the defaults are BiSeNet's."""

    threshold: float = Field(default=0.7, gt=0, le=1, description="a pixel is hard if the probability of its own class is below this")
    min_kept: float = Field(
        default=1 / 16,
        ge=0,
        description="kept at least, the hardest first: below 1 a share of the labelled pixels, from 1 on a number of pixels an image "
        "(MMSegmentation's 100000 is for crops of 512x1024)",
    )


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return OhemCrossEntropy(spec, config.threshold, config.min_kept, class_weights(config, spec, class_pixels))


class OhemCrossEntropy(CrossEntropy):
    """The weighted mean of cross-entropy over the pixels with p[t] < threshold, or over the hardest ones where those are too few."""

    def __init__(
        self, spec: DatasetSpec, threshold: float = 0.7, min_kept: float = 1 / 16, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(spec, class_weights=class_weights)
        self.threshold, self.min_kept = threshold, min_kept

    def reduce(self, loss_NHW: Tensor, weight_NHW: Tensor) -> Tensor:
        eligible_NHW = weight_NHW > 0
        kept_NHW = eligible_NHW & (loss_NHW.detach() > -math.log(self.threshold))
        kept, eligible = torch.stack([kept_NHW.sum(), eligible_NHW.sum()]).tolist()
        least = round(self.min_kept * eligible) if self.min_kept < 1 else int(self.min_kept) * len(loss_NHW)
        if kept < least:  # the hard ones are among the hardest
            kept_NHW = hardest(loss_NHW, eligible_NHW, least)
        return super().reduce(torch.where(kept_NHW, loss_NHW, 0), torch.where(kept_NHW, weight_NHW, 0))
