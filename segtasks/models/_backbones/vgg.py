"""VGG-16 with BatchNorm (Simonyan and Zisserman, ICLR 2015, configuration D), as torchvision has it, without the classifier.

Stages are what comes before each of the five 2x2 poolings; the fifth pooling is left to models that want it (SegNet, DeepLab-LargeFOV).
With `output_stride` 16 or 8 the last pooling, or the last two, are 3x3 with stride 1, and what follows is dilated (DeepLab, section 3.1).
"""

from __future__ import annotations

from torch import Tensor, nn

from segtasks.models._backbones._base import Backbone
from segtasks.models._layers import he_normal

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Backbone):
    """`features` is torchvision's: convolution, BatchNorm, ReLU and pooling in one row of 44. `width`: channels of the first stage."""

    first = "features.0"

    def __init__(self, in_channels: int, output_stride: int = 32, width: int = 64) -> None:
        super().__init__()
        self.stages = tuple(tuple(channels * width // 64 for channels in stage) for stage in STAGES)
        self.channels = tuple(stage[-1] for stage in self.stages)
        layers: list[nn.Module] = []
        self.pools: list[int] = []  # where the poolings stand in `features`
        before, reached, dilation = in_channels, 1, 1
        strides = []
        for stage in self.stages:
            strides.append(reached)
            for after in stage:
                conv = nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation)
                layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
                before = after
            self.pools.append(len(layers))
            if reached < output_stride:
                layers.append(nn.MaxPool2d(2))
                reached *= 2
            else:
                layers.append(nn.MaxPool2d(3, stride=1, padding=1))
                dilation *= 2
        self.strides = tuple(strides)
        self.features = nn.Sequential(*layers)
        self.apply(he_normal)

    def stage(self, number: int, features: Tensor) -> Tensor:
        """Stage `number`'s convolutions, without a pooling."""
        start = self.pools[number - 1] + 1 if number else 0
        for at in range(start, self.pools[number]):
            features = self.features[at](features)
        return features

    def forward(self, image_NCHW: Tensor) -> list[Tensor]:
        found = [self.stage(0, image_NCHW)]
        for number in range(1, 5):
            found.append(self.stage(number, self.features[self.pools[number - 1]](found[-1])))
        return found
