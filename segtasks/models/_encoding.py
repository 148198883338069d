"""The context encoding module (Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018) and its encoding layer."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.models._layers import conv_norm_relu


class Encoding(nn.Module):
    """(N, D, h, w) -> (N, K, D): residuals to K codewords, summed over the pixels with soft assignment.

    e[k] = sum_i a[i, k] (x[i] - d[k]), a[i] the softmax over k of s[k] |x[i] - d[k]|^2 (equations 1 and 2; the paper's minus is in s, which
    starts below 0). Square and sum are expanded, so that memory grows with N h w (K + D), not with N h w K D; in float32 whatever
    autocast says, since differences of large squares decide.
    """

    def __init__(self, channels: int, codewords: int) -> None:
        super().__init__()
        bound = (channels * codewords) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codewords, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codewords).uniform_(-1, 0))

    def forward(self, features: Tensor) -> Tensor:
        device = features.device.type
        with torch.autocast(device, enabled=False) if device != "meta" else nullcontext():  # meta: for counting parameters and FLOPs
            x_NPD = features.flatten(2).transpose(1, 2).to(self.codewords.dtype)
            square = x_NPD.square().sum(2, keepdim=True) + self.codewords.square().sum(1)
            distance_NPK = square - 2 * x_NPD @ self.codewords.t()
            share_NPK = torch.softmax(self.scale * distance_NPK, dim=2)
            return share_NPK.transpose(1, 2) @ x_NPD - share_NPK.sum(1).unsqueeze(2) * self.codewords


class ContextEncoding(nn.Module):
    """Scales each channel by what the whole image holds: features x (1 + gamma). With `num_classes` it also says which those are."""

    def __init__(self, channels: int, codewords: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.project = conv_norm_relu(channels, channels, 1)
        self.encoding = Encoding(channels, codewords)
        self.norm = nn.BatchNorm1d(codewords)
        self.scaling = nn.Linear(channels, channels)
        self.presence = None if num_classes is None else nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, channels, h, w) -> the same scaled, and logits (N, num_classes) of each class being somewhere in the image."""
        code_ND = F.relu(self.norm(self.encoding(self.project(features)))).mean(1)
        gamma_ND11 = torch.sigmoid(self.scaling(code_ND))[:, :, None, None]
        presence = None if self.presence is None else self.presence(code_ND)
        return F.relu(features + features * gamma_ND11), presence


def classes_present(target_NHW: Tensor, num_classes: int) -> Tensor:
    """bool (N, num_classes): which classes an image's target holds. Ignored pixels hold none."""
    other_NHW = (target_NHW < 0) | (target_NHW >= num_classes)
    index_NP = torch.where(other_NHW, num_classes, target_NHW).flatten(1)
    found = torch.zeros(len(target_NHW), num_classes + 1, dtype=torch.bool, device=target_NHW.device)
    return found.scatter(1, index_NP, True)[:, :num_classes]
