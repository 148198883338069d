"""Hausdorff distance losses (Karimi and Salcudean, IEEE TMI 39(2), 2020): errors cost the more, the further they are from a boundary.

For the largest error instead of the sum of all, beside a loss of regions; on a CPU 9 times cross-entropy with OpenCV, erosion 15 times.
With p the truth of a class, q its softmax, and a mean over labelled pixels of the sum over classes:
`distance_transform`: (p - q)^2 (d_p^alpha + d_q^alpha), with d_p and d_q the distances in pixels from the boundaries of the truth and of q
above 0.5, from either side and held constant in the gradient; `one_sided` leaves d_q out, as the paper's cheaper variant.
d is 0 for a class that is absent from the image or alone in it.
`erosion`: sum over k = 1..K of k^alpha e_k, with e_0 = (p - q)^2 and e_k = f(B * e_(k-1)), B the mean over a pixel and its four neighbours
(beyond the image and at ignored pixels there is no error) and f the paper's soft threshold at 0.5. f is taken as max(2x - 1, 0), so that
the inside of a certain error stays 1; public implementations use x - 0.5 and divide each image by its maximum, which leaves an error that
is equal everywhere no gradient. All classes of all images count, absent ones by what is predicted of them.
A perfect prediction costs 0 in both. The paper's third form, by convolutions with discs, is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segtasks.losses._base import Loss
from segtasks.losses._distance import BoundaryOptions, fields
from segtasks.spec import DatasetSpec


class Config(BoundaryOptions):
    """Hausdorff distance loss."""

    form: Literal["distance_transform", "erosion"] = Field(
        default="distance_transform",
        description="how the distance of an error is had: exact distance maps, or how many erosions it outlasts",
    )
    alpha: float = Field(default=2.0, gt=0, description="power of the distance; 2 in the paper")
    erosions: int = Field(default=10, ge=1, description="form erosion: K; errors further in than K pixels cost no more")
    one_sided: bool = Field(
        default=False, description="form distance_transform: distances from the truth's boundary alone, at half the cost"
    )

    @model_validator(mode="after")
    def _one_sided_has_sides(self) -> Self:
        if self.one_sided and self.form == "erosion":
            raise ValueError("`one_sided` is of `form: distance_transform`; an erosion has no sides")
        return self


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels` is not needed."""
    return Hausdorff(config, spec)


class Hausdorff(Loss):
    """The mean over labelled pixels, summed over classes."""

    def __init__(self, config: Config, spec: DatasetSpec) -> None:
        super().__init__(spec)
        self.config, self.left_out = config, config.left_out(spec)

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        q_NCHW = logits_NCHW.softmax(1)
        total = logits_NCHW.new_zeros((), dtype=torch.float64)
        for image in zip(q_NCHW, class_NHW, valid_NHW, strict=True):
            if self.config.form == "erosion":  # done again in the backward pass: keeping every erosion takes many times the logits
                total = total + checkpoint(self._by_erosion, *image, use_reentrant=False, preserve_rng_state=False)
            else:
                total = total + self._by_distance(*image)
        return (total / valid_NHW.sum().clamp(min=1)).to(logits_NCHW.dtype)

    def _error(self, q_CHW: Tensor, class_HW: Tensor, valid_HW: Tensor) -> Tensor:
        """(p - q)^2; 0 at ignored pixels and of classes that are left out."""
        minus_p_CHW = torch.zeros_like(q_CHW).scatter_(0, class_HW.unsqueeze(0), -1)
        error_CHW = torch.where(valid_HW, (q_CHW + minus_p_CHW).square(), 0)
        if not self.left_out:
            return error_CHW
        return error_CHW.index_fill(0, torch.tensor(self.left_out, device=q_CHW.device), 0)

    def _by_distance(self, q_CHW: Tensor, class_HW: Tensor, valid_HW: Tensor) -> Tensor:
        weight_CHW = self._power_of_distance(q_CHW, class_HW, valid_HW)
        if not self.config.one_sided:
            surest = q_CHW.detach().max(0)
            none_HW = torch.full_like(class_HW, self.num_classes)  # above 0.5 is at most one class
            predicted_HW = torch.where(surest.values > 0.5, surest.indices, none_HW)
            weight_CHW += self._power_of_distance(q_CHW, predicted_HW, valid_HW)
        return (self._error(q_CHW, class_HW, valid_HW) * weight_CHW).sum().double()

    @torch.no_grad()
    def _power_of_distance(self, q_CHW: Tensor, class_HW: Tensor, valid_HW: Tensor) -> Tensor:
        """d^alpha of each class, like `q_CHW`; 0 for classes without a boundary."""
        found = fields(class_HW, valid_HW)
        power_CHW = torch.zeros_like(q_CHW)
        for place, index in enumerate(found.classes_P.tolist()):
            if index < self.num_classes:
                power_CHW[index] = found.distance_PHW[place] ** self.config.alpha
        return power_CHW

    def _by_erosion(self, q_CHW: Tensor, class_HW: Tensor, valid_HW: Tensor) -> Tensor:
        error_CHW = self._error(q_CHW, class_HW, valid_HW)
        total = error_CHW.new_zeros((), dtype=torch.float64)
        for k in range(1, self.config.erosions + 1):
            error_CHW = eroded(error_CHW)
            left_C = error_CHW.detach().amax((1, 2)) > 0
            if not left_C.all():
                error_CHW = error_CHW[left_C]
            if not len(error_CHW):
                break
            total = total + k**self.config.alpha * error_CHW.sum().double()
        return total + error_CHW[:0].sum()  # part of the graph also where nothing is left


def eroded(error_CHW: Tensor) -> Tensor:
    """max(2x - 1, 0), x the mean over each pixel and its four neighbours."""
    padded_CHW = F.pad(error_CHW, (1, 1, 1, 1))
    vertical_CHW = padded_CHW[:, :-2, 1:-1] + padded_CHW[:, 2:, 1:-1]
    horizontal_CHW = padded_CHW[:, 1:-1, :-2] + padded_CHW[:, 1:-1, 2:]
    return F.relu(0.4 * (error_CHW + vertical_CHW + horizontal_CHW) - 1)
