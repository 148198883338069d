"""Sensitivity-specificity loss (Brosch, Yoo, Tang, Li, Traboulsee and Tam, MICCAI 2015): squared errors within and outside of the truth.

For small lesions in much background, with one knob between missing and inventing; costs three times cross-entropy. With p the
probabilities and g the truth of a class, E = r sum (g - p)^2 g / sum g + (1 - r) sum (g - p)^2 (1 - g) / sum (1 - g): the mean squared
error within the truth (sensitivity) and outside of it (specificity). The paper has lesions alone; here it is the mean over classes, each
against the rest. Sums run over the batch or over each image. A class that is absent from the truth is left out by default; with
`classes: all` it costs its error of specificity. A class that covers every labelled pixel has no such error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.losses._region import RegionConfig, RegionLoss
from segtasks.losses._weights import class_weights
from segtasks.spec import DatasetSpec


class Config(RegionConfig):
    """Sensitivity-specificity loss; the paper's r is 0.05."""

    r: float = Field(default=0.05, gt=0, lt=1, description="weight of the error within the truth; 1 - r of the error outside of it")


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return SensitivitySpecificity(config, spec, class_pixels)


class SensitivitySpecificity(RegionLoss):
    """E, as in the module's docstring."""

    def __init__(self, config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> None:
        super().__init__(config, spec, class_weights(config, spec, class_pixels))
        self.r = config.r

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        p_NCHW = logits_NCHW.softmax(1)
        class_N1HW = class_NHW.unsqueeze(1)
        own_NHW = p_NCHW.gather(1, class_N1HW).squeeze(1)
        # the truth's own probabilities are set to 0, not subtracted afterwards: the difference of two large sums is all rounding
        others_NCHW = p_NCHW.scatter(1, class_N1HW, 0) * valid_NHW.unsqueeze(1)
        truth_RC = self.by_class(torch.ones_like(own_NHW), class_NHW, valid_NHW)
        rest_RC = truth_RC.sum(1, keepdim=True) - truth_RC
        missed_RC = self.by_class((1 - own_NHW) ** 2, class_NHW, valid_NHW)
        invented_RC = self.by_region((others_NCHW * others_NCHW).sum((2, 3)))
        cost_RC = self.r * missed_RC / truth_RC.clamp(min=1) + (1 - self.r) * invented_RC / rest_RC.clamp(min=1)
        return self.mean(cost_RC, self.counted(truth_RC)).to(logits_NCHW.dtype)
