"""The heads of FastFCN, from the joint pyramid to the logits. Each gives logits and, if it predicts that, which classes are present."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segtasks.models._aspp import ASPP, scaled_rates
from segtasks.models._encoding import ContextEncoding
from segtasks.models._layers import conv_norm_relu
from segtasks.models._pyramid_pooling import PyramidPooling

HeadName = Literal["fcn", "psp", "encnet", "aspp"]


def build_head(name: HeadName, before: int, num_classes: int, *, codewords: int, presence: bool) -> nn.Module:
    """A module (N, before, h, w) -> (logits (N, num_classes, h, w), None or logits (N, num_classes) of presence).

    `codewords` and `presence` (to predict it) are for `encnet`.
    """
    between = before // 4
    if name == "encnet":
        return _EncNet(before, between, num_classes, codewords, presence)
    if name == "psp":
        return _Plain(PyramidPooling(before), *conv_norm_relu(2 * before, between), *_logits(between, num_classes))
    if name == "aspp":
        between = before // 8
        aspp = ASPP(before, between, scaled_rates((6, 12, 18), 8), dropout=0.5)
        return _Plain(aspp, *conv_norm_relu(between, between), *_logits(between, num_classes))
    return _Plain(*conv_norm_relu(before, between), *_logits(between, num_classes))


class _Plain(nn.Sequential):
    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        for layer in self:
            features = layer(features)
        return features, None


class _EncNet(nn.Module):
    def __init__(self, before: int, between: int, num_classes: int, codewords: int, presence: bool) -> None:
        super().__init__()
        self.reduce = conv_norm_relu(before, between, 1)
        self.context = ContextEncoding(between, codewords, num_classes if presence else None)
        self.logits = nn.Sequential(*_logits(between, num_classes))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        features, presence = self.context(self.reduce(features))
        return self.logits(features), presence


def _logits(before: int, num_classes: int) -> tuple[nn.Module, nn.Module]:
    return nn.Dropout2d(0.1), nn.Conv2d(before, num_classes, 1)
