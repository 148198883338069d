"""A model plug-in for tests: a backbone of two convolutions and a head."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig


class Config(BaseConfig):
    """Nothing to set."""


class Backbone(nn.Module):
    first = "conv1"

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image_NCHW):
        return F.relu(self.conv2(F.relu(self.bn1(self.conv1(image_NCHW)))))


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.backbone = Backbone(channels)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, image_NCHW):
        return self.head(self.backbone(image_NCHW))


def build(config, num_classes, in_channels=3):
    return Net(num_classes, in_channels)
