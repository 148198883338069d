"""Generalised Dice loss (Sudre, Li, Vercauteren, Ourselin and Cardoso, DLMIA 2017): one Dice over all classes, weighted by 1 / volume^2.

For classes of very unequal size, each of which should contribute alike; costs less than twice cross-entropy. With p the probabilities and
g the truth of class l, GDL = 1 - 2 sum_l w_l sum p g / sum_l w_l (sum p + sum g), w_l = 1 / (sum g)^2. Sums and weights are of the batch or
of each image. A class that is absent from the truth would weigh infinitely: by default it weighs nothing, and what is predicted of it is
missed by the others; with `classes: all` it weighs as the smallest class that is present (as in NiftyNet, the authors' code).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.losses._region import RegionLoss, RegionOptions, overlap
from segtasks.spec import DatasetSpec


class Config(RegionOptions):
    """Generalised Dice loss; the paper's weighting is `square`."""

    weighting: Literal["square", "simple", "uniform"] = Field(
        default="square", description="a class's weight: 1 / volume^2, 1 / volume, or 1; volume: its labelled pixels in the batch (image)"
    )


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """Weights come from each batch; `class_pixels` is not needed."""
    return GeneralisedDice(config, spec)


class GeneralisedDice(RegionLoss):
    """GDL, as in the module's docstring; the mean over images with `per_image`."""

    def __init__(self, config: Config, spec: DatasetSpec) -> None:
        super().__init__(config, spec)
        self.power = {"square": 2, "simple": 1, "uniform": 0}[config.weighting]

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        hit_RC, predicted_RC, truth_RC = self.regions(logits_NCHW.softmax(1), class_NHW, valid_NHW)
        present_RC = truth_RC > 0
        weight_RC = torch.where(present_RC, truth_RC.clamp(min=1) ** -self.power, 0)
        weight_RC = torch.where(present_RC, weight_RC, weight_RC.amax(1, keepdim=True)) * self.counted(truth_RC)
        if self.class_weights is not None:
            weight_RC = weight_RC * self.class_weights  # 0 for the background that is left out
        cost_R = 1 - overlap(2 * (weight_RC * hit_RC).sum(1), (weight_RC * (predicted_RC + truth_RC)).sum(1))
        labelled_R = weight_RC.sum(1) > 0
        return ((cost_R * labelled_R).sum() / labelled_R.sum().clamp(min=1)).to(logits_NCHW.dtype)
