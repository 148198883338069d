"""DeepLabv2 (Chen et al., "DeepLab: [...] Atrous Convolution, and Fully Connected CRFs", TPAMI 2018): atrous ResNet, four rates summed.

For comparison with papers that build on it, most of all on domain adaptation; it costs what a ResNet-101 costs at output stride 8, and
DeepLabv3 and v3+ do better at no more.

Differs from the paper in these points: ResNet is torchvision's (stride in the 3x3 convolution, the first block of a dilated stage at the
rate before), so that its weights load; one scale (inference can fuse several with any model); BatchNorm trains; the fully connected
CRF is a step of its own.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._backbones import ResNetName, build_backbone
from segtasks.models._layers import pad_to_multiple, resize

SMALL = {"backbone": "resnet18"}  # options of the contract tests


class Config(BaseConfig):
    """DeepLabv2 at output stride 8; the defaults are the paper's."""

    backbone: ResNetName = Field(default="resnet101", description="feature extractor, under torchvision's names")
    rates: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(6, 12, 18, 24), min_length=1, max_length=8, description="atrous rates of the classifiers: ASPP-L; ASPP-S is 2, 4, 8, 12"
    )


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A DeepLabv2 with fresh weights from torch's global generator. Raises `ConfigError` on counts below 1."""
    if num_classes < 1:
        raise ConfigError(f"deeplabv2: {num_classes} classes; needed: at least 1")
    return DeepLabV2(config, num_classes, in_channels)


class DeepLabV2(nn.Module):
    """A ResNet at output stride 8; logits are the sum of 3x3 convolutions at each rate."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, in_channels, output_stride=8)
        before = self.backbone.channels[-1]
        self.aspp = nn.ModuleList(nn.Conv2d(before, num_classes, 3, padding=rate, dilation=rate) for rate in config.rates)
        for name, parameter in self.aspp.named_parameters():
            nn.init.normal_(parameter, std=0.0 if name.endswith("bias") else 0.01)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W)."""
        height, width = image_NCHW.shape[-2:]
        image_NCHW = pad_to_multiple(image_NCHW, self.backbone.stride)
        features = self.backbone(image_NCHW)[-1]
        logits_NCHW: Tensor = self.aspp[0](features)
        for conv in self.aspp[1:]:
            logits_NCHW = logits_NCHW + conv(features)
        return resize(logits_NCHW, image_NCHW.shape[-2:])[:, :, :height, :width]
