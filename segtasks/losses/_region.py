"""What the losses of regions share: sums over each class's region in float64, and the mean over classes and images.

A region is what one class covers of the batch or, with `per_image`, of one image. Sums run over labelled pixels alone, per image in the
logits' precision and from there on in float64: float32 cannot count the pixels of a large batch. In distributed training the batch is the
rank's part of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.losses._base import Loss
from segtasks.losses._weights import ClassWeights, class_weights
from segtasks.spec import BACKGROUND_NAMES, DatasetSpec


class RegionOptions(BaseConfig):
    """What a region is, and which classes have one."""

    per_image: bool = Field(
        default=False, description="false: the batch is one region a class, which is steadier; true: each image, then the mean over images"
    )
    classes: Literal["present", "all"] = Field(
        default="present", description="present: classes without a labelled pixel in the batch (image) are left out; all: they count, too"
    )
    include_background: bool = Field(default=True, description="false: the class called background has no region of its own")


class RegionConfig(RegionOptions, ClassWeights):
    """The options of a mean over classes."""


class OverlapConfig(RegionConfig):
    """And of a loss of overlaps."""

    smooth: float = Field(
        default=0.0, ge=0, description="pixels added to what is shared and to the whole; with `classes: all` absent classes need it, take 1"
    )

    @model_validator(mode="after")
    def _absent_classes_have_a_gradient(self) -> Self:
        if self.classes == "all" and self.smooth == 0:
            raise ValueError(
                "with `classes: all` and `smooth: 0` a class that is absent costs 1 whatever is predicted of it; "
                "needed: a smooth above 0, for example 1, or `classes: present`"
            )
        return self


class Regions(NamedTuple):
    """Sums over labelled pixels, float64 (R, C); R images, or 1 for the batch."""

    hit: Tensor  # of p g: the probability of the class within its truth
    predicted: Tensor  # of p, or p^2 if squared
    truth: Tensor  # of g: pixels


class RegionLoss(Loss):
    """The weighted mean over classes of what each costs in the batch, or in each image and then over images."""

    def __init__(self, config: RegionOptions, spec: DatasetSpec, weights: Sequence[float] | None = None) -> None:
        if not config.include_background:
            background = required_background(spec)
            weights = [0.0 if index in background else weight for index, weight in enumerate(weights or [1.0] * spec.num_classes)]
        super().__init__(spec, weights)
        self.per_image, self.only_present = config.per_image, config.classes == "present"

    def regions(self, p_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor, *, squared: bool = False) -> Regions:
        """The sums over `p_NCHW`, probabilities."""
        own_NHW = p_NCHW.gather(1, class_NHW.unsqueeze(1)).squeeze(1)
        masked_NCHW = p_NCHW * valid_NHW.unsqueeze(1)
        return Regions(
            hit=self.by_class(own_NHW, class_NHW, valid_NHW),
            predicted=self.by_region((masked_NCHW * masked_NCHW if squared else masked_NCHW).sum((2, 3))),
            truth=self.by_class(torch.ones_like(own_NHW), class_NHW, valid_NHW),
        )

    def by_class(self, value_NHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        """float64 (R, C): the sum over the labelled pixels of each class."""
        images = len(class_NHW)
        cell_NHW = class_NHW + self.num_classes * torch.arange(images, device=class_NHW.device).view(-1, 1, 1)
        zero = value_NHW.new_zeros(images * self.num_classes, dtype=torch.float64)
        sums = zero.index_add(0, cell_NHW.flatten(), torch.where(valid_NHW, value_NHW, 0).double().flatten())
        return self.by_region(sums.view(images, self.num_classes))

    def by_region(self, sum_NC: Tensor) -> Tensor:
        """float64 (R, C) from each image's sums."""
        return sum_NC.double() if self.per_image else sum_NC.double().sum(0, keepdim=True)

    def counted(self, truth_RC: Tensor) -> Tensor:
        """bool (R, C): which classes count. None does where no pixel is labelled."""
        return truth_RC > 0 if self.only_present else (truth_RC.sum(1, keepdim=True) > 0).expand_as(truth_RC)

    def mean(self, cost_RC: Tensor, counted_RC: Tensor) -> Tensor:
        """The weighted mean over the classes that count, then over the regions in which one does; 0 if there is none."""
        weight_RC = counted_RC.to(cost_RC) if self.class_weights is None else counted_RC * self.class_weights.to(cost_RC)
        total_R = weight_RC.sum(1)
        cost_R = (cost_RC * weight_RC).sum(1) / torch.where(total_R > 0, total_R, 1)
        return cost_R.sum() / (total_R > 0).sum().clamp(min=1)


class OverlapLoss(RegionLoss):
    """Charges each class 1 minus a measure of overlap."""

    squared = False

    def __init__(self, config: OverlapConfig, spec: DatasetSpec, class_pixels: Sequence[int]) -> None:
        super().__init__(config, spec, class_weights(config, spec, class_pixels))
        self.smooth = config.smooth

    @abstractmethod
    def cost(self, regions: Regions) -> Tensor:
        """(R, C): what each class costs."""

    def value(self, logits_NCHW: Tensor, class_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
        regions = self.regions(logits_NCHW.softmax(1), class_NHW, valid_NHW, squared=self.squared)
        return self.mean(self.cost(regions), self.counted(regions.truth)).to(logits_NCHW.dtype)


def overlap(shared: Tensor, whole: Tensor) -> Tensor:
    """shared / whole; 1 where whole is 0: nothing is there and nothing was predicted."""
    empty = whole == 0
    return torch.where(empty, 1, shared / torch.where(empty, 1, whole))


def background_classes(spec: DatasetSpec) -> list[int]:
    """The indices of the classes that are called background and are no things."""
    return [index for index, item in enumerate(spec.classes) if item.name.lower() in BACKGROUND_NAMES and not item.isthing]


def required_background(spec: DatasetSpec) -> list[int]:
    """The same for `include_background: false`. Raises `ConfigError` where there is none to leave out."""
    found = background_classes(spec)
    if not found:
        raise ConfigError(
            f"include_background: false leaves out a class called background; the classes are {', '.join(spec.names)}. "
            "Leave the option out, or give a class no weight with `weights: fixed` where the loss has weights"
        )
    return found
