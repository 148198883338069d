"""IoU-balanced loss (Wu, Yang, Wang and Li, arXiv 1908.05641, 2019): cross-entropy in which regions that are found well count more.

For regions that should be sharp where they are found at all, rather than for rare classes; costs twice cross-entropy. The paper's
examples are boxes: each positive's cross-entropy is weighted by IoU^eta, scaled so that the positives' sum stays the same (equations 1 and
2), and its smooth L1 by w_loc IoU^lambda (equations 3 and 4), IoU being that of the predicted and the true box. `classification_weights`
and `localisation` are these, for any positives that have an IoU. In dense segmentation an example is a labelled pixel; it is positive
unless its class is called background; its IoU is the soft IoU, in its image, of its class's predicted and true regions; and what it
regresses is the probability of its class, whose target is 1. Weights are constants for the gradient, as in the paper. So the classification
part has the *value* of cross-entropy and another gradient: compare such losses by gradients or metrics. The localisation part
(`localisation`, the paper's w_loc) is off by default: a pixel's probability is no box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.losses._base import weighted_mean
from segtasks.losses._region import RegionLoss, RegionOptions, background_classes, overlap
from segtasks.losses._weights import ClassWeights, class_weights
from segtasks.spec import DatasetSpec

STOPS_GRADIENT = True  # weights are constants


class Config(ClassWeights):
    """IoU-balanced loss; the paper's eta and lambda are 1.5."""

    eta: float = Field(default=1.5, ge=0, description="power of the IoU in the weights of the cross-entropy; 0: plain cross-entropy")
    localisation: float = Field(default=0.0, ge=0, description="the paper's w_loc: factor of the smooth L1 part; 0: without it")
    lam: float = Field(default=1.5, ge=0, description="the paper's lambda: power of the IoU in the weights of the smooth L1 part")
    beta: float = Field(default=0.11, gt=0, description="where smooth L1 turns from quadratic to linear")


def build(config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> nn.Module:
    """`class_pixels`: labelled pixels of each class in the training data, in the spec's order; for `weights` from frequencies."""
    return IouBalanced(config, spec, class_pixels)


def classification_weights(loss_P: Tensor, iou_P: Tensor, eta: float) -> Tensor:
    """IoU^eta, scaled so that weighting keeps the sum of P positives' losses (equation 2); constants. 1 where IoU is 0 for all."""
    loss_P, weight_P = loss_P.detach(), iou_P.detach() ** eta
    weighted = (loss_P * weight_P).sum()
    return torch.where(weighted > 0, weight_P * (loss_P.sum() / torch.where(weighted > 0, weighted, 1)), 1)


def localisation(predicted_PM: Tensor, target_PM: Tensor, iou_P: Tensor, lam: float, beta: float) -> Tensor:
    """IoU^lambda sum_m smooth L1 of each of P positives with M coordinates (equations 3 and 4, without w_loc)."""
    loss_P = F.smooth_l1_loss(predicted_PM, target_PM, reduction="none", beta=beta).sum(1)
    return iou_P.detach() ** lam * loss_P


class IouBalanced(RegionLoss):
    """Both parts over the labelled pixels, divided by their class weights (by their number without)."""

    negative: Tensor

    def __init__(self, config: Config, spec: DatasetSpec, class_pixels: Sequence[int]) -> None:
        super().__init__(RegionOptions(per_image=True), spec, class_weights(config, spec, class_pixels))
        self.config = config
        negative = torch.tensor([index in background_classes(spec) for index in range(spec.num_classes)])
        self.register_buffer("negative", negative, persistent=False)

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        loss_NHW = torch.where(valid_NHW, F.cross_entropy(logits_NCHW, class_NHW, reduction="none"), 0)
        weight_NHW = self.pixel_weights(class_NHW, valid_NHW, loss_NHW.dtype)
        positive_NHW = valid_NHW & ~self.negative[class_NHW]
        iou_NHW = self._iou(logits_NCHW.detach(), class_NHW, valid_NHW).to(loss_NHW.dtype)
        balance_P = classification_weights((loss_NHW * weight_NHW * positive_NHW).flatten(), iou_NHW.flatten(), self.config.eta)
        cost_NHW = torch.where(positive_NHW, balance_P.view_as(loss_NHW), 1) * loss_NHW
        if self.config.localisation:
            p_P1 = torch.exp(-loss_NHW).view(-1, 1)
            part_P = localisation(p_P1, torch.ones_like(p_P1), iou_NHW.flatten(), self.config.lam, self.config.beta)
            cost_NHW = cost_NHW + self.config.localisation * torch.where(positive_NHW, part_P.view_as(loss_NHW), 0)
        return weighted_mean(cost_NHW, weight_NHW)

    def _iou(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        """(N, H, W): the soft IoU, in its image, of each pixel's class."""
        hit_NC, predicted_NC, truth_NC = self.regions(logits_NCHW.softmax(1), class_NHW, valid_NHW)
        iou_NC = overlap(hit_NC, predicted_NC + truth_NC - hit_NC)
        return iou_NC[torch.arange(len(iou_NC), device=iou_NC.device).view(-1, 1, 1), class_NHW]
