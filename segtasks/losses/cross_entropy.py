"""Cross-entropy over the softmax of the logits, every pixel alike; optional label smoothing (Szegedy et al., CVPR 2016, section 7)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig
from segtasks.losses._base import PixelLoss
from segtasks.spec import DatasetSpec


class Config(BaseConfig):
    """Cross-entropy."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """Every pixel counts alike; `class_pixels` is not needed."""
    return CrossEntropy(spec, config.label_smoothing)


class CrossEntropy(PixelLoss):
    """-(1 - e) log p[t] - e/C sum_c log p[c] a pixel, with e the label smoothing; class weights multiply by the target's weight."""

    def __init__(self, spec: DatasetSpec, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(spec, class_weights)
        self.label_smoothing = label_smoothing

    def per_pixel(self, logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
        return F.cross_entropy(logits_NCHW, target_NHW, reduction="none", label_smoothing=self.label_smoothing)
