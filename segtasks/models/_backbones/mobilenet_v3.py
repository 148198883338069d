"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2), as torchvision has it, without the classifier.

With `output_stride` 16 or 8 the blocks that would stride are dilated instead, their own depthwise convolution included, as torchvision's
`dilated` does it for 16 (in ResNet a stage's first block keeps the dilation before it). The `reduced_tail` of torchvision's `dilated`
models is not here: it has other shapes than the ImageNet weights.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from segtasks.models._backbones._base import Backbone
from segtasks.models._layers import he_normal


class Block(NamedTuple):
    """A row of the paper's tables: depthwise kernel, channels inside and after, squeeze-and-excitation, h-swish (or ReLU), stride."""

    kernel: int
    inside: int
    after: int
    squeezed: bool
    h_swish: bool
    stride: int


LARGE = (
    Block(3, 16, 16, False, False, 1),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False, 1),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False, 1),
    Block(5, 120, 40, True, False, 1),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 480, 112, True, True, 1),
    Block(3, 672, 112, True, True, 1),
    Block(5, 672, 160, True, True, 2),
    Block(5, 960, 160, True, True, 1),
    Block(5, 960, 160, True, True, 1),
)
SMALL = (
    Block(3, 16, 16, True, False, 2),
    Block(3, 72, 24, False, False, 2),
    Block(3, 88, 24, False, False, 1),
    Block(5, 96, 40, True, True, 2),
    Block(5, 240, 40, True, True, 1),
    Block(5, 240, 40, True, True, 1),
    Block(5, 120, 48, True, True, 1),
    Block(5, 144, 48, True, True, 1),
    Block(5, 288, 96, True, True, 2),
    Block(5, 576, 96, True, True, 1),
    Block(5, 576, 96, True, True, 1),
)
BLOCKS = {"mobilenet_v3_large": LARGE, "mobilenet_v3_small": SMALL}


class MobileNetV3(Backbone):
    """Stages: what comes before each stride, the last with the 1x1 convolution to six times the channels."""

    first = "features.0.0"

    def __init__(self, name: str, in_channels: int, output_stride: int) -> None:
        super().__init__()
        before, reached, dilation = 16, 2, 1
        layers: list[nn.Module] = [_conv(in_channels, before, 3, stride=2, activation=nn.Hardswish)]
        strides, channels, ends = [], [], []
        for block in BLOCKS[name]:
            stride = block.stride
            if stride == 2:
                strides.append(reached)
                channels.append(before)
                ends.append(len(layers) - 1)
                if reached == output_stride:
                    dilation, stride = dilation * 2, 1
                reached *= stride
            layers.append(InvertedResidual(before, block, stride, dilation))
            before = block.after
        layers.append(_conv(before, 6 * before, 1, activation=nn.Hardswish))
        self.strides = (*strides, reached)
        self.channels = (*channels, 6 * before)
        self.ends = (*ends, len(layers) - 1)  # where each stage's last layer stands in `features`
        self.features = nn.Sequential(*layers)
        self.apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> list[Tensor]:
        found = []
        features = image_NCHW
        for at, layer in enumerate(self.features):
            features = layer(features)
            if at in self.ends:
                found.append(features)
        return found


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise, squeeze and excite, project by 1x1; the input is added where the shapes agree."""

    def __init__(self, before: int, block: Block, stride: int, dilation: int) -> None:
        super().__init__()
        activation = nn.Hardswish if block.h_swish else nn.ReLU
        layers: list[nn.Module] = []
        if block.inside != before:
            layers.append(_conv(before, block.inside, 1, activation=activation))
        layers.append(
            _conv(block.inside, block.inside, block.kernel, stride=stride, dilation=dilation, groups=block.inside, activation=activation)
        )
        if block.squeezed:
            layers.append(SqueezeExcitation(block.inside, _to_eight(block.inside // 4)))
        layers.append(_conv(block.inside, block.after, 1, activation=None))
        self.block = nn.Sequential(*layers)
        self.adds = block.stride == 1 and before == block.after

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.block(features)
        return result + features if self.adds else result


class SqueezeExcitation(nn.Module):
    """Every channel is scaled by what two layers make of all channels' means (Hu et al., CVPR 2018, with a hard sigmoid)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        scale = self.fc2(nn.functional.relu(self.fc1(features.mean((2, 3), keepdim=True))))
        return nn.functional.hardsigmoid(scale) * features


def _conv(
    before: int,
    after: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: type[nn.Hardswish | nn.ReLU] | None,
) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(before, after, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=0.001, momentum=0.01),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


def _to_eight(channels: int) -> int:
    """The multiple of 8 next to `channels`, and not under 0.9 of it."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
