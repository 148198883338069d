"""A model plug-in for tests: an auxiliary head that is there in training only, and nothing that depends on the batch."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig
from segtasks.models._base import Outputs, SegmentationModel


class Config(BaseConfig):
    """Nothing to set."""


class Net(SegmentationModel):
    auxiliary_weights = {"auxiliary": 0.4}  # noqa: RUF012

    def __init__(self, classes, channels):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Conv2d(8, classes, 3, padding=1)
        self.auxiliary = nn.Conv2d(8, classes, 1)

    def forward(self, image_NCHW):
        features = F.relu(self.stem(image_NCHW))
        logits_NCHW = self.head(features)
        return Outputs(logits_NCHW, {"auxiliary": self.auxiliary(F.avg_pool2d(features, 2))}) if self.training else logits_NCHW


def build(config, num_classes, in_channels=3):
    return Net(num_classes, in_channels)
