"""SegNet (Badrinarayanan et al., "A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation", PAMI 2017): pooling undone.

For comparison with the first encoder-decoders, and for weights of VGG-16: 29.4 million parameters and, since it convolves at full
resolution, 107 billion multiplications for an image of 480x360. In bfloat16 and in other runtimes a maximum may be found at its neighbour,
so that a few pixels change.

Layers and parameters are those of the authors' `segnet_train.prototxt`: there too the pooling of an odd side rounds up and is undone to it.
The class weights that the paper trains with (median frequency balancing) belong to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._backbones.vgg import VGG16
from segtasks.models._layers import he_normal

SMALL = {"width": 8}  # options of the contract tests
EXEMPT = {
    "works_in_bfloat16_autocast": "before training, neighbours are often equal in bfloat16's three digits, and a maximum found next to its "
    "place moves features; tests/models/test_segnet.py shows how well a trained net's classes agree"
}


class Config(BaseConfig):
    """SegNet on VGG-16 with BatchNorm; the default is the paper's size."""

    width: int = Field(default=64, ge=1, le=256, description="channels of the first stage; VGG-16's weights load at 64")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A SegNet with fresh weights from torch's global generator: He normal, as in the paper. Raises `ConfigError` on counts below 1."""
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"segnet: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    return SegNet(config.width, num_classes, in_channels)


class SegNet(nn.Module):
    """VGG-16's five stages, and the same mirrored: each begins with what the pooling on the other side took, put back where it was."""

    def __init__(self, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = VGG16(in_channels, width=width)
        stages = self.backbone.stages
        self.decoder = nn.ModuleList()
        for number in reversed(range(5)):
            after = (*stages[number][1:], stages[number - 1][-1]) if number else stages[0][1:]
            self.decoder.append(nn.Sequential(*(_conv(channels, to) for channels, to in zip(stages[number], after, strict=False))))
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)
        self.decoder.apply(he_normal)
        he_normal(self.head)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W)."""
        features = image_NCHW
        places: list[Tensor] = []
        sizes: list[torch.Size] = []
        for number in range(5):
            features = self.backbone.stage(number, features)
            sizes.append(features.shape[-2:])
            features, place = F.max_pool2d(features, 2, ceil_mode=True, return_indices=True)
            places.append(place)
        for stage, place, size in zip(self.decoder, reversed(places), reversed(sizes), strict=True):
            features = stage(unpool(features, place, size))
        logits_NCHW: Tensor = self.head(features)
        return logits_NCHW


def unpool(features_NCHW: Tensor, place_NCHW: Tensor, size: Sequence[int]) -> Tensor:
    """`F.max_unpool2d`: values where the pooling found its maxima in a map of `size`, zeros elsewhere; it can be exported to ONNX."""
    batch, channels = features_NCHW.shape[:2]
    empty = features_NCHW.new_zeros(batch, channels, size[0] * size[1])
    return empty.scatter(2, place_NCHW.flatten(2), features_NCHW.flatten(2)).view(batch, channels, size[0], size[1])


def _conv(before: int, after: int) -> nn.Sequential:
    """As in the encoder, a bias before BatchNorm included."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))
