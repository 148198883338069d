"""ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016), as torchvision has it: stride in the 3x3 convolution.

With `output_stride` 16 or 8 the last stages are dilated instead of strided. The convolution that would stride has the dilation before it,
as in torchvision's `replace_stride_with_dilation`, so every position has what the strided network gives there. `multi_grid` (DeepLabv3,
section 3.2.1) multiplies the dilations of the last stage's blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segtasks.models._backbones._base import Backbone
from segtasks.models._layers import he_normal

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class ResNet(Backbone):
    """Stages: the stem's convolution (stride 2), then layer1 to layer4."""

    first = "conv1"

    def __init__(self, name: str, in_channels: int, output_stride: int, multi_grid: Sequence[int]) -> None:
        super().__init__()
        block: type[BasicBlock | Bottleneck] = Bottleneck if name in ("resnet50", "resnet101") else BasicBlock
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, stride, dilation, reached = 64, 1, 1, 4
        strides = [2]
        for number, blocks in enumerate(BLOCKS[name]):
            stride = 1 if number == 0 else 2
            before = dilation
            if reached * stride > output_stride:
                dilation, stride = dilation * stride, 1
            reached *= stride
            dilations = [dilation] * blocks
            if number == 3 and tuple(multi_grid) != (1, 1, 1):
                dilations = [dilation * multi_grid[min(at, 2)] for at in range(blocks)]
                before = dilations[0]
            width = 64 << number
            layers: list[nn.Module] = []
            for at, rate in enumerate(dilations):
                layers.append(block(channels, width, stride, rate, before) if at == 0 else block(channels, width, 1, rate, rate))
                channels = width * block.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*layers))
            strides.append(reached)
        self.strides = tuple(strides)
        self.channels = (64, *(block.expansion * (64 << number) for number in range(4)))
        self.apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> list[Tensor]:
        features = self.relu(self.bn1(self.conv1(image_NCHW)))
        found = [features]
        features = self.maxpool(features)
        for number in range(1, 5):
            features = getattr(self, f"layer{number}")(features)
            found.append(features)
        return found


class BasicBlock(nn.Module):
    """`first` is the dilation of the first 3x3 convolution, which may stride: that of what it reads. None: `dilation` too."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int, dilation: int, first: int | None = None) -> None:
        super().__init__()
        first = first or dilation
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=first, dilation=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(before, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        kept = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        result: Tensor = self.relu(self.bn2(self.conv2(features)) + kept)
        return result


class Bottleneck(nn.Module):
    """`first` is the dilation of its one 3x3 convolution, as in `BasicBlock`; nothing after it reads beyond a pixel."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int, dilation: int, first: int | None = None) -> None:
        super().__init__()
        dilation = first or dilation
        after = width * self.expansion
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(before, after, stride)

    def forward(self, features: Tensor) -> Tensor:
        kept = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        features = self.relu(self.bn2(self.conv2(features)))
        result: Tensor = self.relu(self.bn3(self.conv3(features)) + kept)
        return result


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    if before == after and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
