"""DeepLabv3+ (Chen et al., "Encoder-Decoder with Atrous Separable Convolution for [...] Segmentation", ECCV 2018): v3 with a decoder.

For most scenes the first model to try where a GPU trains it: ASPP's features are refined at a quarter of the image's side, so borders are
sharp; 26.7 million parameters on ResNet-50.

Differs from the paper in these points: no Xception; the convolutions of ASPP and decoder are separable, as the paper has them with
Xception, unless `separable: false` makes them plain, as it has them with ResNet. Plain on ResNet-101 it is the `deeplab` of
github.com/jfzhang95/pytorch-deeplab-xception parameter by parameter.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._aspp import ASPP, scaled_rates
from segtasks.models._backbones import DilatedName, build_backbone
from segtasks.models._layers import conv_norm_relu, he_normal, pad_to_multiple, resize, separable_conv

Rate = Annotated[int, Field(ge=1, le=64)]
LOW_LEVEL_CHANNELS = 48  # the paper's, section 4.1: enough, and few enough not to outweigh ASPP's

SMALL = {"backbone": "resnet18", "channels": 32}  # options of the contract tests


class Config(BaseConfig):
    """DeepLabv3+; the defaults are the paper's, on ResNet-50."""

    backbone: DilatedName = Field(default="resnet50", description="feature extractor, under torchvision's names; mobilenet_v3_* for speed")
    output_stride: Literal[8, 16] = Field(default=16, description="8 is finer, at three times the multiplications")
    multi_grid: tuple[Rate, Rate, Rate] = Field(default=(1, 2, 4), description="factors of the dilations in a ResNet's last stage")
    rates: tuple[Rate, Rate, Rate] = Field(default=(6, 12, 18), description="atrous rates of ASPP at output stride 16; doubled at 8")
    channels: int = Field(default=256, ge=1, le=2048, description="channels of ASPP and decoder")
    separable: bool = Field(default=True, description="depthwise separable 3x3 convolutions in ASPP and decoder")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of values dropped after ASPP, in training")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A DeepLabv3+ with fresh weights from torch's global generator. Raises `ConfigError` on counts below 1."""
    if num_classes < 1:
        raise ConfigError(f"deeplabv3plus: {num_classes} classes; needed: at least 1")
    return DeepLabV3Plus(config, num_classes, in_channels)


class DeepLabV3Plus(nn.Module):
    """ASPP's features, upsampled to stride 4 and refined with the backbone's."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, in_channels, output_stride=config.output_stride, multi_grid=config.multi_grid)
        rates = scaled_rates(config.rates, config.output_stride)
        self.low = self.backbone.strides.index(4)
        conv = separable_conv if config.separable else conv_norm_relu
        self.aspp = ASPP(self.backbone.channels[-1], config.channels, rates, dropout=config.dropout, separable=config.separable)
        self.low_level = conv_norm_relu(self.backbone.channels[self.low], LOW_LEVEL_CHANNELS, 1)
        self.decoder = nn.Sequential(
            conv(config.channels + LOW_LEVEL_CHANNELS, config.channels),
            conv(config.channels, config.channels),
        )
        self.head = nn.Conv2d(config.channels, num_classes, 1)
        for module in (self.aspp, self.low_level, self.decoder, self.head):
            module.apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W)."""
        height, width = image_NCHW.shape[-2:]
        image_NCHW = pad_to_multiple(image_NCHW, self.backbone.stride)
        features = self.backbone(image_NCHW)
        low_level = self.low_level(features[self.low])
        coarse = resize(self.aspp(features[-1]), low_level.shape[-2:])
        logits_NCHW = self.head(self.decoder(torch.cat([coarse, low_level], dim=1)))
        return resize(logits_NCHW, image_NCHW.shape[-2:])[:, :, :height, :width]
