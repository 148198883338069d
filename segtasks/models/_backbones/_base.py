"""What every backbone is: feature maps at falling resolution, under torchvision's parameter names."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """float NCHW with sides that are multiples of `stride` -> one feature map a stage, finest first.

    `channels[i]` and `strides[i]` are those of stage i; with atrous convolution the last strides stay at the output stride.
    Parameters have torchvision's names, without its classifier, so that its ImageNet weights load. `first` is the name of the convolution
    that reads the image. A model with a backbone keeps it as `model.backbone`: that is where weights are loaded.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    first: str

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this: the coarsest stride, as if nothing were dilated."""
        return 32

    @abstractmethod
    def forward(self, image_NCHW: Tensor) -> list[Tensor]: ...
