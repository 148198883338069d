"""What Gated-SCNN's two tasks cost: semantic boundaries from the target, and how segmentation and boundary are held together.

Values outside 0..num_classes-1 in the target are ignored: they cost nothing, are no boundary and make none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FILTER_RADIUS = 4  # of the triangle filter that stands for the paper's Gaussian: sigma 2, as in the reference code
STRAIGHT = 0.18  # what that filter makes of the gradient at a straight boundary: (5 + 4) / 50
NOT_ZERO = 0.01  # the paper's "non-zero", above the rounding of float32


def semantic_boundaries(target_NHW: Tensor, num_classes: int, radius: int) -> tuple[Tensor, Tensor]:
    """bool (N, H, W) twice: pixels within `radius` (Euclidean) of a pixel of another class, and pixels that have a class."""
    height, width = target_NHW.shape[-2:]
    valid_NHW = (target_NHW >= 0) & (target_NHW < num_classes)
    class_NHW = torch.where(valid_NHW, target_NHW, -1)
    padded = F.pad(class_NHW, (radius,) * 4, value=-1)
    boundary_NHW = torch.zeros_like(valid_NHW)
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            if 0 < y * y + x * x <= radius * radius:
                other_NHW = padded[:, radius + y : radius + y + height, radius + x : radius + x + width]
                boundary_NHW |= (other_NHW != class_NHW) & (other_NHW >= 0)
    return boundary_NHW & valid_NHW, valid_NHW


def boundary_cross_entropy(logits_NHW: Tensor, boundary_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
    """Binary cross-entropy, each side weighted by the other's share of the batch's pixels; mean over the valid pixels."""
    count = valid_NHW.sum().clamp(min=1)
    share = boundary_NHW.sum() / count
    weight_NHW = torch.where(boundary_NHW, 1 - share, share) * valid_NHW
    total = F.binary_cross_entropy_with_logits(logits_NHW, boundary_NHW.to(logits_NHW), weight_NHW.to(logits_NHW), reduction="sum")
    return total / count


def dual_task(logits_NCHW: Tensor, target_NHW: Tensor, valid_NHW: Tensor, temperature: float) -> Tensor:
    """L_reg-> (equation 5): |zeta - zeta^|, half the mean over where zeta is not zero and half that over where zeta^ is not.

    zeta is of a Gumbel-softmax sample of the classes, drawn from torch's generator. The target holds classes wherever `valid_NHW`.
    """
    sample_NCHW = F.gumbel_softmax(logits_NCHW, tau=temperature, dim=1)
    truth_NCHW = torch.zeros_like(sample_NCHW).scatter_(1, torch.where(valid_NHW, target_NHW, 0).unsqueeze(1), 1.0)
    counted_N1HW = valid_NHW.unsqueeze(1)
    predicted_NHW = boundary_strength(sample_NCHW * counted_N1HW)
    true_NHW = boundary_strength(truth_NCHW * counted_N1HW)
    gap_NHW = (predicted_NHW - true_NHW).abs()
    return (_mean(gap_NHW, valid_NHW & (predicted_NHW > NOT_ZERO)) + _mean(gap_NHW, valid_NHW & (true_NHW > NOT_ZERO))) / 2


def boundary_strength(classes_NCHW: Tensor) -> Tensor:
    """zeta (equation 4): |gradient(G * classes)| / sqrt(2), (N, H, W), scaled to 1 at a straight boundary between two classes."""
    smooth = F.pad(classes_NCHW, (FILTER_RADIUS + 1,) * 4, mode="replicate")
    for _ in range(2):  # two boxes make a triangle
        smooth = F.avg_pool2d(smooth, FILTER_RADIUS + 1, stride=1)
    dx = (smooth[:, :, 1:-1, 2:] - smooth[:, :, 1:-1, :-2]) / 2
    dy = (smooth[:, :, 2:, 1:-1] - smooth[:, :, :-2, 1:-1]) / 2
    return ((dx.square() + dy.square()).sum(1) / 2 + 1e-8).sqrt() / STRAIGHT  # the root has no gradient at 0


def boundary_consistency(
    logits_NCHW: Tensor, target_NHW: Tensor, valid_NHW: Tensor, boundary_logits_NHW: Tensor, threshold: float
) -> Tensor:
    """L_reg<- (equation 6): mean cross-entropy over the pixels that are taken for a boundary with a probability above `threshold`."""
    loss_NHW = F.cross_entropy(logits_NCHW, torch.where(valid_NHW, target_NHW, 0), reduction="none")
    return _mean(loss_NHW, valid_NHW & (boundary_logits_NHW.sigmoid() > threshold))


def _mean(value_NHW: Tensor, where_NHW: Tensor) -> Tensor:
    """Over `where_NHW`; 0 where that is empty."""
    return torch.where(where_NHW, value_NHW, 0.0).sum() / where_NHW.sum().clamp(min=1)
