"""Jaccard loss (Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks", ISVC 2016): 1 minus each class's soft IoU.

For training towards the metric that is reported, mean IoU; costs less than twice cross-entropy. With p the probabilities and g the truth
of a class, IoU = (sum p g + smooth) / (sum (p + g - p g) + smooth). Sums run over the batch or over each image. A class that is absent
from the truth is left out by default; with `classes: all` it costs 1 - smooth / (predicted + smooth), which has next to no gradient
unless `smooth` is some pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segtasks.losses._region import OverlapConfig, OverlapLoss, Regions, overlap
from segtasks.spec import DatasetSpec


class Config(OverlapConfig):
    """Jaccard loss."""


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return Jaccard(config, spec, class_pixels)


class Jaccard(OverlapLoss):
    """1 - IoU, as in the module's docstring."""

    def cost(self, regions: Regions) -> Tensor:
        union = regions.predicted + regions.truth - regions.hit
        return 1 - overlap(regions.hit + self.smooth, union + self.smooth)
