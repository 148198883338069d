"""Dice loss (Milletari, Navab and Ahmadi, "V-Net", 3DV 2016): 1 minus the soft Dice coefficient (F1 score) of each class.

For small structures before much background; costs less than twice cross-entropy. With p the probabilities and g the truth of a class,
D = (2 sum p g + smooth) / (sum p + sum g + smooth); with `squared: true` the denominator is the paper's sum p^2 + sum g^2. Sums run over
the batch (nnU-Net's batch Dice) or over each image. A class that is absent from the truth is left out by default; with `classes: all` it
costs 1 - smooth / (predicted + smooth), which has next to no gradient unless `smooth` is some pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from segtasks.losses._region import OverlapConfig, OverlapLoss, Regions, overlap
from segtasks.spec import DatasetSpec


class Config(OverlapConfig):
    """Dice loss."""

    squared: bool = Field(
        default=False, description="true: the paper's sums of squares in the denominator; false: plain sums, as in nnU-Net"
    )


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return Dice(config, spec, class_pixels)


class Dice(OverlapLoss):
    """1 - D, D as in the module's docstring."""

    def __init__(self, config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> None:
        super().__init__(config, spec, class_pixels)
        self.squared = config.squared

    def cost(self, regions: Regions) -> Tensor:
        return 1 - overlap(2 * regions.hit + self.smooth, regions.predicted + regions.truth + self.smooth)
