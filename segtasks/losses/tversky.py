"""Tversky loss (Salehi, Erdogmus and Gholipour, MLMI 2017), optionally focal (Abraham and Khan, ISBI 2019): Dice with its two errors apart.

For small structures that must not be missed: with beta above alpha recall goes before precision; costs less than twice cross-entropy. With
p the probabilities and g the truth of a class, T = (TP + smooth) / (TP + alpha FP + beta FN + smooth), TP = sum p g, FP = sum p (1 - g),
FN = sum (1 - p) g: alpha weighs false positives and beta false negatives, as in Salehi's paper (Abraham and Khan have it the other way
round). alpha = beta = 0.5 is Dice, 1 is Jaccard. A class costs (1 - T)^(1 / gamma), Abraham and Khan's focal form (their gamma is 4/3);
gamma 1 is plain. Sums run over the batch or over each image. A class that is absent from the truth is left out by default; with
`classes: all` it costs 1 - smooth / (alpha predicted + smooth), which has next to no gradient unless `smooth` is some pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from segtasks.losses._region import OverlapConfig, OverlapLoss, Regions, overlap
from segtasks.spec import DatasetSpec


class Config(OverlapConfig):
    """Tversky loss; the defaults are the best of Salehi's paper."""

    alpha: float = Field(default=0.3, ge=0, description="weight of false positives")
    beta: float = Field(default=0.7, ge=0, description="weight of false negatives")
    gamma: float = Field(
        default=1.0, ge=1, le=3, description="a class costs (1 - T)^(1 / gamma); above 1 keeps more gradient where T is nearly 1"
    )

    @model_validator(mode="after")
    def _some_error_counts(self) -> Self:
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta are 0: no error would cost anything; needed: at least one above 0")
        return self


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return Tversky(config, spec, class_pixels)


class Tversky(OverlapLoss):
    """(1 - T)^(1 / gamma), T as in the module's docstring."""

    def __init__(self, config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> None:
        super().__init__(config, spec, class_pixels)
        self.alpha, self.beta, self.gamma = config.alpha, config.beta, config.gamma

    def cost(self, regions: Regions) -> Tensor:
        false_positives, false_negatives = regions.predicted - regions.hit, regions.truth - regions.hit
        whole = regions.hit + self.alpha * false_positives + self.beta * false_negatives
        cost = 1 - overlap(regions.hit + self.smooth, whole + self.smooth)
        if self.gamma == 1:
            return cost
        perfect = cost <= torch.finfo(torch.float32).eps  # there x^(1 / gamma) has an infinite slope
        return torch.where(perfect, 0, torch.where(perfect, 1, cost) ** (1 / self.gamma))
