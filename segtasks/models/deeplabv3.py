"""DeepLabv3 (Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 2017): atrous ResNet and ASPP.

For scenes with objects of many sizes, and for weights of torchvision's DeepLabv3; its logits have a sixteenth of the image's side, so
borders are blurred where DeepLabv3+, at about the same cost, has them sharp.

Differs from the paper in these points: a 3x3 convolution between ASPP and the logits, and an auxiliary FCN head in training, both as in
torchvision and MMSegmentation. With `output_stride: 8` and `multi_grid: [1, 1, 1]` it is torchvision's `deeplabv3_resnet50` or
`deeplabv3_resnet101` parameter by parameter, and their weights load.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._aspp import ASPP, scaled_rates
from segtasks.models._backbones import DilatedName, build_backbone
from segtasks.models._base import Outputs, SegmentationModel
from segtasks.models._heads import fcn_head
from segtasks.models._layers import conv_norm_relu, he_normal, pad_to_multiple, resize

Rate = Annotated[int, Field(ge=1, le=64)]

SMALL = {"backbone": "resnet18", "channels": 32}  # options of the contract tests


class Config(BaseConfig):
    """DeepLabv3; the defaults are the paper's, on ResNet-50."""

    backbone: DilatedName = Field(default="resnet50", description="feature extractor, under torchvision's names; mobilenet_v3_* for speed")
    output_stride: Literal[8, 16] = Field(default=16, description="8 is finer, at three times the multiplications")
    multi_grid: tuple[Rate, Rate, Rate] = Field(
        default=(1, 2, 4), description="factors of the dilations in a ResNet's last stage; torchvision has 1, 1, 1"
    )
    rates: tuple[Rate, Rate, Rate] = Field(default=(6, 12, 18), description="atrous rates of ASPP at output stride 16; doubled at 8")
    channels: int = Field(default=256, ge=1, le=2048, description="channels of ASPP")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of values dropped after ASPP, in training; torchvision drops 0.5")
    auxiliary_weight: float = Field(
        default=0.4, ge=0, description="weight of the loss of an FCN head on an earlier stage; 0: without that head"
    )


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A DeepLabv3 with fresh weights from torch's global generator. Raises `ConfigError` on counts below 1."""
    if num_classes < 1:
        raise ConfigError(f"deeplabv3: {num_classes} classes; needed: at least 1")
    return DeepLabV3(config, num_classes, in_channels)


class DeepLabV3(SegmentationModel):
    """`classifier` and `aux_classifier` have torchvision's names."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, in_channels, output_stride=config.output_stride, multi_grid=config.multi_grid)
        rates = scaled_rates(config.rates, config.output_stride)
        self.classifier = nn.Sequential(
            ASPP(self.backbone.channels[-1], config.channels, rates, dropout=config.dropout),
            *conv_norm_relu(config.channels, config.channels),
            nn.Conv2d(config.channels, num_classes, 1),
        )
        self.classifier.apply(he_normal)
        self.aux_classifier = None
        if config.auxiliary_weight:
            self.auxiliary_weights = {"auxiliary": config.auxiliary_weight}
            # torchvision's stages: the one before the last, and that of stride 8 in a MobileNet
            self.before = -3 if config.backbone.startswith("mobilenet") else -2
            self.aux_classifier = fcn_head(self.backbone.channels[self.before], num_classes).apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W); with the auxiliary head's in training."""
        height, width = image_NCHW.shape[-2:]
        image_NCHW = pad_to_multiple(image_NCHW, self.backbone.stride)
        features = self.backbone(image_NCHW)
        logits_NCHW = resize(self.classifier(features[-1]), image_NCHW.shape[-2:])[:, :, :height, :width]
        if not self.training or self.aux_classifier is None:
            return logits_NCHW
        auxiliary = resize(self.aux_classifier(features[self.before]), image_NCHW.shape[-2:])[:, :, :height, :width]
        return Outputs(logits_NCHW, {"auxiliary": auxiliary})
