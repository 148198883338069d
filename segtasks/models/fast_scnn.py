"""Fast-SCNN (Poudel, Liwicki, Cipolla, "Fast-SCNN: Fast Semantic Segmentation Network", BMVC 2019): a skip connection and a deep branch.

For real time and small machines, without ImageNet weights: 1.14 million parameters, 1.7 billion multiplications for an image of 512x1024.
Thin things get lost, since nothing is finer than an eighth of the image's size.

Differs from public versions (Tramac's, MMSegmentation's) where they differ from the paper: no BatchNorm and ReLU within a depthwise
separable convolution (section 3.2.1), and the upsampled features are convolved with dilation 4 (table 3). The paper's 1.11 million
parameters are those of the convolutions; BatchNorm's come on top.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._base import Outputs, SegmentationModel
from segtasks.models._heads import conv_head
from segtasks.models._layers import conv_norm, conv_norm_relu, he_normal, pad_to_multiple, resize
from segtasks.models._pyramid_pooling import PyramidPooling

EXPANSION = 6  # t of table 1
BOTTLENECKS = ((64, 2), (96, 2), (128, 1))  # channels and stride of the three groups of three


class Config(BaseConfig):
    """Fast-SCNN; the size is the paper's."""

    auxiliary: bool = Field(
        default=True, description="in training, heads on both branches' features, each with 0.4 of the loss of the logits, as in the paper"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of values dropped before the logits, in training")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A Fast-SCNN with fresh weights from torch's global generator: He normal. Raises `ConfigError` on counts below 1."""
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"fast_scnn: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    return FastSCNN(config, num_classes, in_channels)


class FastSCNN(SegmentationModel):
    """Table 1: learning to downsample, global feature extractor, feature fusion, classifier."""

    auxiliary_weights = dict.fromkeys(("downsampled", "extracted"), 0.4)  # section 4.1

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(
            conv_norm_relu(in_channels, 32, stride=2), _separable(32, 48, stride=2), _separable(48, 64, stride=2)
        )
        layers: list[nn.Module] = []
        before = 64
        for channels, stride in BOTTLENECKS:
            for number in range(3):
                layers.append(_Bottleneck(before, channels, stride if number == 0 else 1))
                before = channels
        self.extract = nn.Sequential(*layers, PyramidPooling(before), conv_norm_relu(2 * before, 128, 1))
        self.fuse = _Fusion(64, 128)
        self.classify = nn.Sequential(
            _separable(128, 128), _separable(128, 128), nn.Dropout(config.dropout), nn.Conv2d(128, num_classes, 1)
        )
        self.auxiliary = nn.ModuleDict()
        if config.auxiliary:
            for name, channels in zip(self.auxiliary_weights, (64, 128), strict=True):
                self.auxiliary[name] = conv_head(channels, 32, num_classes, 0.1)
        self.apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W); in training the auxiliary ones beside them."""
        height, width = image_NCHW.shape[-2:]
        image_NCHW = pad_to_multiple(image_NCHW, 32)
        size = image_NCHW.shape[-2:]
        fine = self.downsample(image_NCHW)
        coarse = self.extract(fine)
        logits_NCHW = resize(self.classify(self.fuse(fine, coarse)), size)[:, :, :height, :width]
        if not (self.training and len(self.auxiliary)):
            return logits_NCHW
        found = zip(self.auxiliary.items(), (fine, coarse), strict=True)
        return Outputs(logits_NCHW, {name: resize(head(features), size)[:, :, :height, :width] for (name, head), features in found})


class _Bottleneck(nn.Module):
    """Table 2, MobileNetV2's: wider, depthwise, narrower without ReLU; added to its input where the shapes agree."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        wide = EXPANSION * before
        self.residual = before == after and stride == 1
        self.layers = nn.Sequential(
            conv_norm_relu(before, wide, 1),
            conv_norm_relu(wide, wide, stride=stride, groups=wide),
            *conv_norm(wide, after, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.layers(features)
        return features + result if self.residual else result


class _Fusion(nn.Module):
    """Table 3: the coarse features, upsampled and convolved, added to the fine ones."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(conv_norm_relu(coarse, coarse, dilation=4, groups=coarse), *conv_norm(coarse, coarse, 1))
        self.fine = conv_norm(fine, coarse, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        result: Tensor = self.relu(self.fine(fine) + self.coarse(resize(coarse, fine.shape[-2:])))
        return result


def _separable(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    """A depthwise and a 1x1 convolution with nothing in between, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, before, 3, stride=stride, padding=1, groups=before, bias=False), *conv_norm_relu(before, after, 1)
    )
