"""Feature extractors that several architectures stand on, under torchvision's names. Not plug-ins: a model has one as `model.backbone`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from segtasks.errors import ConfigError
from segtasks.models._backbones._base import Backbone
from segtasks.models._backbones.mobilenet_v3 import BLOCKS as MOBILENETS
from segtasks.models._backbones.mobilenet_v3 import MobileNetV3
from segtasks.models._backbones.resnet import BLOCKS as RESNETS
from segtasks.models._backbones.resnet import ResNet
from segtasks.models._backbones.vgg import VGG16

ResNetName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
DilatedName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v3_large", "mobilenet_v3_small"]
BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16_bn", "mobilenet_v3_large", "mobilenet_v3_small"]
OutputStride = Literal[8, 16, 32]

__all__ = ["Backbone", "BackboneName", "DilatedName", "OutputStride", "ResNetName", "build_backbone"]


def build_backbone(name: str, in_channels: int = 3, *, output_stride: int = 32, multi_grid: Sequence[int] = (1, 1, 1)) -> Backbone:
    """A backbone with fresh weights from torch's global generator. `ConfigError` for an output stride that it does not have."""
    if in_channels < 1:
        raise ConfigError(f"{name}: {in_channels} input channels; needed: at least 1")
    if name in RESNETS:
        return ResNet(name, in_channels, output_stride, multi_grid)
    if name == "vgg16_bn":
        return VGG16(in_channels, output_stride)
    if name in MOBILENETS:
        return MobileNetV3(name, in_channels, output_stride)
    raise ConfigError(f"no backbone is called {name!r}; there are {', '.join(get_args(BackboneName))}")
