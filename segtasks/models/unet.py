"""U-Net (Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015): padded variant.

For small data sets, medical images above all, and as the first thing to try: without a backbone it learns from nothing; 1.8 million
parameters by default, 31 million at the paper's size, which is 16 times the work.

Differs from the paper in these points: convolutions are padded, so the logits have the input's size (the paper's lose 92 pixels a
side); BatchNorm after each convolution unless `norm` says otherwise; `bilinear` upsampling as the default. With `norm: none`,
`upsampling: transpose`, `width: 64`, `depth: 4` layers and parameters are the paper's.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._layers import he_normal, pad_to_multiple

Norm = Literal["batch", "group", "none"]
Upsampling = Literal["bilinear", "transpose"]

SMALL = {"width": 8, "depth": 2}  # options of the contract tests


class Config(BaseConfig):
    """U-Net; the paper's size is `width: 64`."""

    width: int = Field(default=16, ge=1, le=1024, description="channels at full resolution; doubled at every level")
    depth: int = Field(default=4, ge=1, le=8, description="levels of 2x2 max pooling")
    norm: Norm = Field(
        default="batch",
        description="after each convolution: batch, group (8 channels a group; for small batches) or none (as in the paper)",
    )
    upsampling: Upsampling = Field(
        default="bilinear",
        description="bilinear after a 1x1 convolution (better when measured on CamVid), or transpose: the paper's 2x2 up-convolution",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of channels dropped at the end of the contracting path, in training")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A U-Net with fresh weights from torch's global generator: He normal, as in the paper. Raises `ConfigError` on counts below 1."""
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"unet: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    return UNet(config, num_classes, in_channels)


class UNet(nn.Module):
    """Contracting path, bottleneck and expanding path with skip connections; see `Config`."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels = [config.width << level for level in range(config.depth + 1)]
        self.stride = 1 << config.depth
        self.norm = config.norm
        self.encoder = nn.ModuleList(
            _double_conv(before, after, config.norm) for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(config.dropout)
        self.decoder = nn.ModuleList(_Up(below, config.norm, config.upsampling) for below in reversed(channels[1:]))
        self.head = nn.Conv2d(config.width, num_classes, 1)
        self.apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W).

        Sides are padded at the bottom and right to multiples of 2^depth by repeating the edge, and cropped back.
        """
        height, width = image_NCHW.shape[-2:]
        features = pad_to_multiple(image_NCHW, self.stride)
        if self.training and self.norm == "batch" and features.shape[0] * features.shape[2] * features.shape[3] == self.stride**2:
            raise ConfigError(
                f"unet cannot train on one image of {height}x{width}: at depth {self.stride.bit_length() - 1} it shrinks to one pixel, and "
                "BatchNorm needs more than one value a channel; use a larger batch_size or crop, less depth, or norm: group"
            )
        skips = []
        for block in self.encoder[:-1]:
            features = block(features)
            skips.append(features)
            features = self.pool(features)
        features = self.dropout(self.encoder[-1](features))
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            features = up(features, skip)
        logits_NCHW: Tensor = self.head(features)
        return logits_NCHW[:, :, :height, :width]


class _Up(nn.Module):
    """Twice the size, half the channels, then two convolutions over it and the skip connection."""

    def __init__(self, channels: int, norm: Norm, upsampling: Upsampling) -> None:
        super().__init__()
        half = channels // 2
        # A 1x1 convolution and bilinear interpolation commute (its weights sum to 1): convolving first costs a quarter.
        self.up = (
            nn.ConvTranspose2d(channels, half, 2, stride=2)
            if upsampling == "transpose"
            else nn.Sequential(nn.Conv2d(channels, half, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        )
        self.conv = _double_conv(channels, half, norm)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        result: Tensor = self.conv(torch.cat([skip, self.up(features)], dim=1))
        return result


def _double_conv(before: int, after: int, norm: Norm) -> nn.Sequential:
    """(3x3 convolution, norm, ReLU) twice. Each BatchNorm follows its convolution directly: it can be folded into it."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=1, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(after))
        elif norm == "group":
            layers.append(nn.GroupNorm(after // 8 if after % 8 == 0 else 1, after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
