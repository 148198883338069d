"""Focal loss (Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", ICCV 2017): easy pixels hardly count.

For data in which most pixels are easy and would drown the few hard ones; costs what cross-entropy does. The paper's loss is of sigmoids;
this is its form over the softmax, as segmentation uses it: with `gamma: 0` it is cross-entropy. The paper's alpha is the class weights
(`weights: fixed`), and the sum is divided by the weights of all labelled pixels, where the paper divides by the number of objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.losses._base import PixelLoss
from segtasks.losses._weights import ClassWeights, class_weights
from segtasks.spec import DatasetSpec


class Config(ClassWeights):
    """Focal loss; the paper's gamma is 2."""

    gamma: float = Field(default=2.0, ge=0, le=10, description="how much less easy pixels count; 0: cross-entropy")


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return Focal(spec, config.gamma, class_weights(config, spec, class_pixels))


class Focal(PixelLoss):
    """-(1 - p[t])^gamma log p[t] a pixel (the paper's equation 4); class weights, its alpha, multiply it (equation 5)."""

    def __init__(self, spec: DatasetSpec, gamma: float = 2.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(spec, class_weights)
        self.gamma = gamma

    def per_pixel(self, logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
        loss_NHW = F.cross_entropy(logits_NCHW, target_NHW, reduction="none")
        # clamped, since x^gamma has an infinite slope at 0 where gamma < 1
        wrong_NHW = -torch.expm1(-loss_NHW).clamp(max=-torch.finfo(loss_NHW.dtype).tiny)
        return wrong_NHW**self.gamma * loss_NHW
