"""Lovász-Softmax (Berman, Triki and Blaschko, CVPR 2018): the convex extension of each class's Jaccard loss, for mean IoU.

For training, or rather finishing, towards mean IoU (the paper fine-tunes with it); costs seven times cross-entropy. Errors of a class
are m = 1 - p within its truth and p elsewhere; sorted from the largest, each is weighted by how much the Jaccard loss grows when that pixel
too is wrong (equations 7 to 9); the mean over classes is equation 11. Pixels are those of the batch or of each image (the paper's
`per_image`). A class that is absent from the truth is left out by default, as in the authors' code; with `classes: all` it costs its
largest p.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtasks.losses._lovasz import jaccard_slopes
from segtasks.losses._region import RegionConfig, RegionLoss
from segtasks.losses._weights import class_weights
from segtasks.spec import DatasetSpec


class Config(RegionConfig):
    """Lovász-Softmax."""


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return LovaszSoftmax(config, spec, class_pixels)


class LovaszSoftmax(RegionLoss):
    """The mean over classes of sum_i slope_i m_i; slopes are constants of the order, so the loss is linear in p between two orders."""

    def __init__(self, config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> None:
        super().__init__(config, spec, class_weights(config, spec, class_pixels))

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        p_NCHW = logits_NCHW.softmax(1)
        with torch.no_grad():
            counted_RC = self.counted(self.by_class(torch.ones_like(p_NCHW[:, 0]), class_NHW, valid_NHW))
            slope_NCHW, constant_RC = self._slopes(p_NCHW, class_NHW, valid_NHW, counted_RC)
        # m is p outside of the truth, and 1 - p within: there the slope's sign is turned, and the 1 is in the constant
        cost_RC = self.by_region((p_NCHW * slope_NCHW).sum((2, 3))) + constant_RC
        return self.mean(cost_RC, counted_RC).to(logits_NCHW.dtype)

    def _slopes(self, p_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor, counted_RC: Tensor) -> tuple[Tensor, Tensor]:
        """d cost / d p of each pixel and class, and what the cost is at p = 0; both 0 for classes that do not count."""
        slope_NCHW = torch.zeros_like(p_NCHW)
        constant_RC = torch.zeros_like(counted_RC, dtype=torch.float64)
        for region, index in counted_RC.nonzero().tolist():
            images = slice(region, region + 1) if self.per_image else slice(None)
            hit_NHW = class_NHW[images] == index
            p_NHW, valid = p_NCHW[images, index], valid_NHW[images]
            error_NHW = torch.where(hit_NHW, 1 - p_NHW, p_NHW)
            slope_NHW = jaccard_slopes(error_NHW.flatten(), hit_NHW.flatten(), valid.flatten()).view_as(error_NHW)
            constant_RC[region, index] = torch.where(hit_NHW, slope_NHW, 0).sum()
            slope_NCHW[images, index] = torch.where(hit_NHW, -slope_NHW, slope_NHW)
        return slope_NCHW, constant_RC
