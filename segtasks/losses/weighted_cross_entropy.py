"""Cross-entropy in which rare classes weigh more: inverse, median or log frequency of the training data, or weights by class name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import nn

from segtasks.losses._weights import ClassWeights, class_weights
from segtasks.losses.cross_entropy import CrossEntropy
from segtasks.spec import DatasetSpec


class Config(ClassWeights):
    """Weighted cross-entropy."""

    weights: Literal["inverse", "median", "log", "fixed"] = Field(
        default="log", description="from the data's pixel counts: inverse, median or log frequency; fixed: as given in `fixed`"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order."""
    return CrossEntropy(spec, config.label_smoothing, class_weights(config, spec, class_pixels))
