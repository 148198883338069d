"""Boundary loss (Kervadec et al., MIDL 2019; MedIA 67, 2021): each wrong pixel costs its distance from the class's boundary.

For small structures, whose outline a loss of regions hardly sees; beside such a loss, never alone: let its weight rise in a `weighted_sum`.
The mean over labelled pixels of sum_c phi_c s_c, with s the softmax and phi_c the signed distance map of class c in the image, in pixels:
outside the distance to the class's nearest pixel, inside minus (the distance to the nearest pixel of another class - 1), so that its
outermost pixels have 0. This is the authors' map; they take the mean over classes, where this is the sum, and their paper's phi is one of a
continuous boundary. phi_c is 0 for a class that is absent from an image or alone in it: it costs nothing there, whatever is predicted. The
minimum is not 0 but the mean of phi of the right class, at most 0, and a perfect prediction has it. Maps are made in each step, of the
classes that occur, on the device of the target: on a CPU 3 times cross-entropy with OpenCV, 12 times without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtasks.losses._base import Loss
from segtasks.losses._distance import BoundaryOptions, fields
from segtasks.spec import DatasetSpec


class Config(BoundaryOptions):
    """Boundary loss."""


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels` is not needed."""
    return Boundary(spec, config.left_out(spec))


class Boundary(Loss):
    """1/P sum over labelled pixels and classes of phi s, P labelled pixels in the batch."""

    def __init__(self, spec: DatasetSpec, left_out: Sequence[int] = ()) -> None:
        super().__init__(spec)
        self.left_out = list(left_out)

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        phi_NCHW = torch.zeros_like(logits_NCHW)
        for phi_CHW, class_HW, valid_HW in zip(phi_NCHW, class_NHW, valid_NHW, strict=True):
            classes_P, phi_PHW = signed_maps(class_HW, valid_HW)
            phi_CHW[classes_P] = phi_PHW.to(phi_CHW)
        phi_NCHW[:, self.left_out] = 0
        per_image_N = (logits_NCHW.softmax(1) * phi_NCHW).sum((1, 2, 3))
        return (per_image_N.double().sum() / valid_NHW.sum().clamp(min=1)).to(logits_NCHW.dtype)


def signed_maps(class_HW: Tensor, valid_HW: Tensor) -> tuple[Tensor, Tensor]:
    """The classes that occur in an image (P,), and phi of each, float32 (P, H, W); 0 at ignored pixels."""
    found = fields(class_HW, valid_HW)
    if len(found.classes_P) < 2:
        return found.classes_P, found.distance_PHW
    return found.classes_P, torch.where(found.own_PHW, 1 - found.distance_PHW, found.distance_PHW)
