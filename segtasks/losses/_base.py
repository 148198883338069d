"""What all losses share, written once: the checks, the ignore value, class weights and the mean over what counts.

A loss of pixels derives from `PixelLoss` and says only what one pixel costs; any other from `Loss`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtasks.spec import DatasetSpec


class Loss(nn.Module, ABC):
    """Checks its arguments, brings half precision logits to float32, and parts classes from ignored pixels.

    A batch in which every pixel is ignored must cost 0, with zero gradients.
    """

    class_weights: Tensor | None

    def __init__(self, spec: DatasetSpec, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.num_classes = spec.num_classes
        self.ignore_index = spec.ignore_index
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def set_progress(self, share: float) -> None:
        """Told before each step which share of all steps is done, 0 to 1: for losses whose weights follow a schedule."""

    def pixel_weights(self, class_NHW: Tensor, valid_NHW: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, H, W): the weight of each labelled pixel's class, 1 without class weights; 0 at ignored pixels."""
        if self.class_weights is None:
            return valid_NHW.to(dtype)
        return self.class_weights.to(class_NHW.device, dtype)[class_NHW] * valid_NHW

    @abstractmethod
    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        """The scalar. `class_NHW` int64 holds classes everywhere (0 at ignored pixels); `valid_NHW` bool says which count."""

    def forward(self, logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
        """float (N, C, H, W) and int64 (N, H, W) -> scalar. Raises `ValueError` where shapes, classes or target values do not fit."""
        self._check(logits_NCHW, target_NHW)
        if logits_NCHW.dtype in (torch.bfloat16, torch.float16):
            logits_NCHW = logits_NCHW.float()
        valid_NHW = target_NHW != self.ignore_index
        return self.value(logits_NCHW, torch.where(valid_NHW, target_NHW, 0), valid_NHW)

    def _check(self, logits_NCHW: Tensor, target_NHW: Tensor) -> None:
        if logits_NCHW.ndim != 4 or target_NHW.shape != (logits_NCHW.shape[0], *logits_NCHW.shape[2:]):
            raise ValueError(
                f"logits are {tuple(logits_NCHW.shape)} and the target is {tuple(target_NHW.shape)}; "
                "needed: (N, C, H, W) and (N, H, W) of the same N, H, W"
            )
        if logits_NCHW.shape[1] != self.num_classes:
            raise ValueError(f"logits have {logits_NCHW.shape[1]} channels; the data set has {self.num_classes} classes")
        if target_NHW.dtype != torch.int64:
            raise ValueError(f"the target is {target_NHW.dtype}; needed: int64 class indices")
        if target_NHW.device.type == "cpu":  # elsewhere looking would wait for the device; the kernel then reports it
            wrong_NHW = (target_NHW != self.ignore_index) & ((target_NHW < 0) | (target_NHW >= self.num_classes))
            if wrong_NHW.any():
                raise ValueError(
                    f"the target holds {sorted(target_NHW[wrong_NHW].unique().tolist())[:5]}; "
                    f"needed: classes 0..{self.num_classes - 1} or the ignore value {self.ignore_index}"
                )


class PixelLoss(Loss):
    """Mean over the pixels whose target is a class, each weighted by its class: sum(w[t] * loss) / sum(w[t])."""

    @abstractmethod
    def per_pixel(self, logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
        """Loss of each pixel (N, H, W), without class weights. Targets are classes everywhere: ignored pixels arrive as class 0."""

    def reduce(self, loss_NHW: Tensor, weight_NHW: Tensor) -> Tensor:
        """The weighted mean; both are 0 at ignored pixels."""
        return weighted_mean(loss_NHW, weight_NHW)

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        # where, not a product: an infinite loss times 0 is not a number
        loss_NHW = torch.where(valid_NHW, self.per_pixel(logits_NCHW, class_NHW), 0)
        return self.reduce(loss_NHW, self.pixel_weights(class_NHW, valid_NHW, loss_NHW.dtype))


def weighted_mean(loss_NHW: Tensor, weight_NHW: Tensor) -> Tensor:
    """sum(w * loss) / sum(w); 0 where no pixel weighs anything."""
    total = weight_NHW.sum()
    return (loss_NHW * weight_NHW).sum() / torch.where(total > 0, total, 1)
