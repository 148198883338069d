"""Lovász hinge (Berman, Triki and Blaschko, CVPR 2018; Yu and Blaschko, ICML 2015): the convex extension of the foreground's Jaccard loss.

For binary segmentation that is measured by the foreground's IoU; costs three times cross-entropy of two classes. With f = logit of the
foreground minus logit of the background and y = +1 or -1, margins m = max(0, 1 - f y) are sorted from the largest and each is weighted by
how much the foreground's Jaccard loss grows when that pixel too is wrong. 0 where every f y >= 1. Pixels are those of the batch or of each
image. Without foreground in the truth the largest margin is the cost, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, did_you_mean
from segtasks.losses._base import Loss
from segtasks.losses._lovasz import jaccard_slopes
from segtasks.losses._region import background_classes
from segtasks.spec import DatasetSpec

CLASSES = 2  # what the contract tests build it for


class Config(BaseConfig):
    """Lovász hinge."""

    foreground: str | None = Field(
        default=None, description="the class whose IoU is meant; none: the one that is not called background, or else the second"
    )
    per_image: bool = Field(default=False, description="false: the batch's pixels together; true: each image's, then the mean over images")


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels` is not needed. Raises `ConfigError` where there are not two classes, or `foreground` is none of them."""
    return LovaszHinge(spec, foreground_class(config, spec), config.per_image)


def foreground_class(config: Config, spec: DatasetSpec) -> int:
    """The index of the foreground."""
    if spec.num_classes != 2:
        raise ConfigError(
            f"lovasz_hinge is for two classes; the data set has {spec.num_classes} ({', '.join(spec.names)}): "
            "use lovasz_softmax, which takes any number"
        )
    if config.foreground is None:
        return 0 if background_classes(spec) == [1] else 1
    if config.foreground not in spec.names:
        raise ConfigError(
            f"loss.options.foreground: no class is called {config.foreground!r}.{did_you_mean(config.foreground, spec.names)}"
        )
    return spec.names.index(config.foreground)


class LovaszHinge(Loss):
    """sum_i slope_i max(0, 1 - f_i y_i) over the batch, or its mean over images with a labelled pixel."""

    def __init__(self, spec: DatasetSpec, foreground: int = 1, per_image: bool = False) -> None:
        super().__init__(spec)
        self.foreground, self.per_image = foreground, per_image

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        hit_NHW = class_NHW == self.foreground
        f_NHW = logits_NCHW[:, self.foreground] - logits_NCHW[:, 1 - self.foreground]
        margin_NHW = F.relu(1 - torch.where(hit_NHW, f_NHW, -f_NHW))
        regions = len(class_NHW) if self.per_image else 1
        margin_RP, hit_RP, valid_RP = (item.reshape(regions, -1) for item in (margin_NHW, hit_NHW, valid_NHW))
        with torch.no_grad():
            slope_RP = torch.stack([jaccard_slopes(*region) for region in zip(margin_RP, hit_RP, valid_RP, strict=True)])
        cost_R = (torch.where(valid_RP, margin_RP, 0) * slope_RP).sum(1)
        return cost_R.sum() / valid_RP.any(1).sum().clamp(min=1)
