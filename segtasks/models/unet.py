"""U-Net (Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015): on any encoder.

For small data sets, for medical and aerial images and as the baseline of everything else: details come back through skip connections;
1.8 million parameters at the default width, 31 million at the paper's. `backbone` puts an encoder with ImageNet weights before the decoder.

Differs from the paper in these points, unless options say otherwise: convolutions are padded (`padding: valid`: they are not, the image is
mirrored at its borders instead, for 1.3 times the work at 388x388); BatchNorm after each convolution; `bilinear` upsampling. With
`width: 64, norm: none, upsampling: transpose, padding: valid` layers and parameters are the paper's. Deep supervision has nnU-Net's weights
(Isensee et al., Nature Methods 2021), but upsamples logits where nnU-Net subsamples labels, and keeps the coarsest level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._backbones import BackboneName, build_backbone
from segtasks.models._base import Loss, Outputs, SegmentationModel
from segtasks.models._layers import he_normal, pad_to_multiple, resize
from segtasks.models._overlap import continued, skip_crop

Norm = Literal["batch", "group", "none"]
Upsampling = Literal["bilinear", "transpose"]
Padding = Literal["same", "valid"]
DEPTH = 4

SMALL = {"width": 8, "depth": 2}  # options of the contract tests


class Config(BaseConfig):
    """U-Net; the paper's size is `width: 64`."""

    width: int = Field(
        default=16, ge=1, le=1024, description="channels at full resolution; doubled at every level (with a backbone: the decoder's)"
    )
    depth: int = Field(default=DEPTH, ge=1, le=8, description="levels of 2x2 max pooling; a backbone has its own")
    norm: Norm = Field(
        default="batch",
        description="after each convolution: batch, group (8 channels a group; for small batches) or none (as in the paper)",
    )
    upsampling: Upsampling = Field(
        default="bilinear",
        description="bilinear after a 1x1 convolution (better when measured on CamVid), or transpose: the paper's 2x2 up-convolution",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of channels dropped at the end of the contracting path, in training")
    padding: Padding = Field(
        default="same",
        description="same: convolutions are padded with zeros; valid: they are not, and the image is mirrored instead (the paper's)",
    )
    backbone: Literal["none", BackboneName] = Field(
        default="none", description="none: the paper's contracting path; else a feature extractor under torchvision's names in its place"
    )
    deep_supervision: bool = Field(
        default=False,
        description="in training, a head on each level of the decoder; the loss at 1/2^i of the size counts 1/2^i, of a sum of 1",
    )

    @model_validator(mode="after")
    def _fits_the_backbone(self) -> Config:
        if self.backbone != "none" and self.padding == "valid":
            raise ValueError(f"padding: valid is for backbone: none; {self.backbone} has padded convolutions")
        if self.backbone != "none" and self.depth != DEPTH:
            raise ValueError(f"depth: {self.depth} is for backbone: none; {self.backbone} has its own: leave depth out")
        return self


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A U-Net with fresh weights from torch's global generator: He normal, as in the paper. Raises `ConfigError` on counts below 1."""
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"unet: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    return UNet(config, num_classes, in_channels)


class UNet(SegmentationModel):
    """Contracting path, bottleneck and expanding path with skip connections; see `Config`."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.valid = config.padding == "valid"
        if config.backbone == "none":
            levels = [config.width << level for level in range(config.depth + 1)]
            self.encoder = nn.ModuleList(
                _double_conv(before, after, config.norm, config.padding)
                for before, after in zip([in_channels, *levels], levels, strict=False)
            )
            self.pool = nn.MaxPool2d(2)
            self.strides = [1 << level for level in range(config.depth + 1)]
            self.multiple = self.strides[-1]
        else:
            self.backbone = build_backbone(config.backbone, in_channels)
            levels = list(self.backbone.channels)
            self.strides = list(self.backbone.strides)
            self.multiple = self.backbone.stride
        self.normalised = config.norm == "batch" or config.backbone != "none"
        self.dropout = nn.Dropout2d(config.dropout)
        self.depth = self.strides[-1].bit_length() - 1
        skips = dict(zip(self.strides, levels, strict=True))
        before = levels[-1]
        self.decoder = nn.ModuleList()
        for level in reversed(range(self.depth)):
            self.decoder.append(_Up(before, skips.get(1 << level, 0), config.width << level, config, skip_crop(self.depth - level)))
            before = config.width << level
        self.head = nn.Conv2d(config.width, num_classes, 1)
        supervised = range(1, self.depth) if config.deep_supervision else ()
        self.auxiliary = nn.ModuleDict({f"level{level}": nn.Conv2d(config.width << level, num_classes, 1) for level in supervised})
        self.auxiliary_weights: Mapping[str, float] = {f"level{level}": 0.5**level for level in supervised}
        for module in self.children():
            if module is not getattr(self, "backbone", None):
                module.apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W); in training the auxiliary ones beside them.

        Sides are padded at the bottom and right to multiples of 2^depth by repeating the edge, and cropped back; `padding: valid` mirrors.
        """
        height, width = image_NCHW.shape[-2:]
        features = continued(image_NCHW, self.depth) if self.valid else pad_to_multiple(image_NCHW, self.multiple)
        coarsest = self.strides[-1]
        if self.training and self.normalised and features.shape[0] * features.shape[2] * features.shape[3] == coarsest**2:
            raise ConfigError(
                f"unet cannot train on one image of {height}x{width}: at depth {self.depth} it shrinks to one pixel, and "
                "BatchNorm needs more than one value a channel; use a larger batch_size or crop, less depth, or norm: group"
            )
        found = dict(zip(self.strides, self._encode(features), strict=True))
        features = self.dropout(found[coarsest])
        auxiliary: dict[str, Tensor] = {}
        for level, up in zip(reversed(range(self.depth)), self.decoder, strict=True):
            features = up(features, found.get(1 << level))
            name = f"level{level}"
            if self.training and name in self.auxiliary:
                auxiliary[name] = self._at_full_size(self.auxiliary[name](features), level)[:, :, :height, :width]
        logits_NCHW: Tensor = self.head(features)[:, :, :height, :width]
        return Outputs(logits_NCHW, auxiliary) if auxiliary else logits_NCHW

    def _encode(self, image_NCHW: Tensor) -> list[Tensor]:
        if hasattr(self, "backbone"):
            features: list[Tensor] = self.backbone(image_NCHW)
            return features
        found = [self.encoder[0](image_NCHW)]
        for block in self.encoder[1:]:
            found.append(block(self.pool(found[-1])))
        return found

    def _at_full_size(self, logits_NCHW: Tensor, level: int) -> Tensor:
        """Upsampled to the pixels that the finest logits are of: without padding the levels above take 2 pixels a side each."""
        height, width = logits_NCHW.shape[-2:]
        logits_NCHW = resize(logits_NCHW, (height << level, width << level))
        lost = 2 * ((1 << level) - 1)
        return logits_NCHW[:, :, lost:-lost, lost:-lost] if self.valid else logits_NCHW

    def training_loss(self, output: Tensor | Outputs, target_NHW: Tensor, loss: Loss) -> Tensor:
        """The weighted mean of the losses of all levels' logits."""
        total = super().training_loss(output, target_NHW, loss)
        return total / (1 + sum(self.auxiliary_weights.values())) if isinstance(output, Outputs) else total


class _Up(nn.Module):
    """Twice the size, `after` channels, then two convolutions over it and the skip connection, if there is one."""

    def __init__(self, before: int, skip: int, after: int, config: Config, crop: int) -> None:
        super().__init__()
        # A 1x1 convolution and bilinear interpolation commute (its weights sum to 1): convolving first costs a quarter.
        self.up = (
            nn.ConvTranspose2d(before, after, 2, stride=2)
            if config.upsampling == "transpose"
            else nn.Sequential(nn.Conv2d(before, after, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        )
        self.crop = crop if config.padding == "valid" else 0
        self.conv = _double_conv(skip + after, after, config.norm, config.padding)

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        features = self.up(features)
        if skip is not None:
            if self.crop:
                skip = skip[:, :, self.crop : -self.crop, self.crop : -self.crop]
            features = torch.cat([skip, features], dim=1)
        result: Tensor = self.conv(features)
        return result


def _double_conv(before: int, after: int, norm: Norm, padding: Padding) -> nn.Sequential:
    """(3x3 convolution, norm, ReLU) twice. Each BatchNorm follows its convolution directly: it can be folded into it."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=1 if padding == "same" else 0, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(after))
        elif norm == "group":
            layers.append(nn.GroupNorm(after // 8 if after % 8 == 0 else 1, after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
