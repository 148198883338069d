"""TopK cross-entropy (Wu, Shen and van den Hengel, arXiv 1605.06885, 2016): cross-entropy of the hardest share of the pixels.

For data in which most pixels are easy, in the form that nnU-Net has; costs a tenth more than cross-entropy. The share is of the batch's
labelled pixels (in distributed training: of the rank's part of it), and the mean runs over the chosen. The paper lowers a threshold on
the probability until enough pixels are left; see `ohem_cross_entropy` for a threshold. Pixels of classes whose weight is 0 are not chosen
from; otherwise weights do not change what is hard. Pixels as hard as the last chosen one are chosen, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.losses._hard import hardest
from segtasks.losses._weights import ClassWeights, class_weights
from segtasks.losses.cross_entropy import CrossEntropy
from segtasks.spec import DatasetSpec


class Config(ClassWeights):
    """TopK cross-entropy; nnU-Net's share is a tenth."""

    share: float = Field(default=0.1, gt=0, le=1, description="of the batch's labelled pixels, the hardest ones; 1: cross-entropy")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return TopKCrossEntropy(spec, config.share, config.label_smoothing, class_weights(config, spec, class_pixels))


class TopKCrossEntropy(CrossEntropy):
    """The weighted mean of cross-entropy over the round(share x labelled pixels) pixels, at least one, where it is highest."""

    def __init__(
        self, spec: DatasetSpec, share: float = 0.1, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(spec, label_smoothing, class_weights)
        self.share = share

    def reduce(self, loss_NHW: Tensor, weight_NHW: Tensor) -> Tensor:
        eligible_NHW = weight_NHW > 0
        chosen_NHW = hardest(loss_NHW, eligible_NHW, max(1, round(self.share * int(eligible_NHW.sum()))))
        return super().reduce(torch.where(chosen_NHW, loss_NHW, 0), torch.where(chosen_NHW, weight_NHW, 0))
