"""DeepLab-LargeFOV (Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and [...] CRFs", ICLR 2015): atrous VGG-16.

For comparison with the literature, and for weights of VGG-16: 20.5 million parameters, most of the time in VGG-16's first stages. Its
output is blurred; the paper sharpens it with a fully connected CRF, which is a step of its own here.

Differs from the paper in these points: VGG-16 has BatchNorm (torchvision's `vgg16_bn`, whose weights load); the first three poolings are
2x2, as in VGG-16 (3x3 in the authors' network files); the loss is taken of the upsampled logits, not of subsampled labels.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._backbones import build_backbone
from segtasks.models._backbones.vgg import VGG16
from segtasks.models._layers import he_normal, pad_to_multiple, resize

SMALL = {"channels": 64}  # options of the contract tests


class Config(BaseConfig):
    """DeepLab-LargeFOV on VGG-16 at output stride 8; the defaults are the paper's."""

    channels: int = Field(default=1024, ge=1, le=4096, description="channels of the layers fc6 and fc7")
    rate: int = Field(default=12, ge=1, le=64, description="atrous rate of fc6 (3x3): its field of view is 224 pixels at 12")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="share of values dropped after fc6 and fc7, in training")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """DeepLab-LargeFOV with fresh weights from torch's global generator. Raises `ConfigError` on counts below 1."""
    if num_classes < 1:
        raise ConfigError(f"deeplabv1: {num_classes} classes; needed: at least 1")
    return DeepLabLargeFOV(config, num_classes, in_channels)


class DeepLabLargeFOV(nn.Module):
    """VGG-16 at output stride 8 with both of its last poolings, then fc6 to fc8 as convolutions."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        backbone = build_backbone("vgg16_bn", in_channels, output_stride=8)
        assert isinstance(backbone, VGG16)
        self.backbone = backbone
        self.fc6 = nn.Conv2d(self.backbone.channels[-1], config.channels, 3, padding=config.rate, dilation=config.rate)
        self.fc7 = nn.Conv2d(config.channels, config.channels, 1)
        self.fc8 = nn.Conv2d(config.channels, num_classes, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(config.dropout)
        for layer in (self.fc6, self.fc7, self.fc8):
            he_normal(layer)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W)."""
        height, width = image_NCHW.shape[-2:]
        image_NCHW = pad_to_multiple(image_NCHW, self.backbone.stride)
        features = self.backbone.features[-1](self.backbone(image_NCHW)[-1])  # pool5
        features = self.dropout(self.relu(self.fc6(features)))
        features = self.dropout(self.relu(self.fc7(features)))
        return resize(self.fc8(features), image_NCHW.shape[-2:])[:, :, :height, :width]
