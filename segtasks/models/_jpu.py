"""Joint pyramid upsampling (Wu et al., FastFCN, section 3.3): from strides 8, 16 and 32 what an atrous backbone would give at stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtasks.models._layers import conv_norm, conv_norm_relu, resize

DILATIONS = (1, 2, 4, 8)


class JPU(nn.Module):
    """Feature maps at strides 8, 16, 32 with `channels` -> (N, 4 width, h, w) at stride 8."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_norm_relu(before, width) for before in channels)
        self.dilated = nn.ModuleList(_separable(len(channels) * width, width, dilation) for dilation in DILATIONS)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        levels = [resize(conv(level), size) for conv, level in zip(self.lateral, features, strict=True)]
        joined = torch.cat(levels[::-1], dim=1)  # coarsest first, as in the authors' code
        return torch.cat([conv(joined) for conv in self.dilated], dim=1)


def _separable(before: int, after: int, dilation: int) -> nn.Sequential:
    """Depthwise, norm, pointwise, norm, ReLU: unlike elsewhere no ReLU lies between the two convolutions."""
    return nn.Sequential(
        *conv_norm(before, before, dilation=dilation, groups=before),
        *conv_norm_relu(before, after, 1),
    )
