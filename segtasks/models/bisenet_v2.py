"""BiSeNet V2 (Yu et al., "Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation", IJCV 2021): two branches.

For real time on a GPU, without ImageNet weights: a wide shallow branch keeps details, a narrow deep one finds what they mean; 3.36 million
parameters when predicting and 3.65 million in training, when four more heads (the booster) supervise the deep branch.

Differs from the paper in these points, as CoinCheung's and MMSegmentation's versions do: ReLU after the last depthwise convolution of a
gather-and-expansion layer, BatchNorm and ReLU after the last convolution of the context embedding and of the aggregation; dropout 0.1 in
the heads. Layers and parameters without the booster are CoinCheung's, whose booster heads have a convolution more than the paper's.
`width: 2, depth: 3` is BiSeNet V2-Large.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._base import Outputs, SegmentationModel
from segtasks.models._heads import conv_head
from segtasks.models._layers import BatchNorm, conv_norm, conv_norm_relu, he_normal, pad_to_multiple, resize

BOOSTED = ("stem", "stage3", "stage4", "stage5")  # of the semantic branch; stage5 before its context embedding

SMALL = {"width": 0.25, "head_channels": 64, "booster_channels": 16}  # options of the contract tests
EXEMPT = {
    "gradients_reach_every_parameter": "some of the paper's BatchNorms are followed by a 1x1 convolution and a BatchNorm, which undoes "
    "their shift: its gradient is zero but for rounding; tests/models/test_bisenet_v2.py names them and checks all others"
}


class Config(BaseConfig):
    """BiSeNet V2; the defaults are the paper's."""

    width: float = Field(default=1.0, ge=0.125, le=4, description="factor of all channels but the heads' (the paper's alpha); 2 for Large")
    depth: int = Field(
        default=1,
        ge=1,
        le=8,
        description="factor of the number of gather-and-expansion layers that keep the size (the paper's d); 3 for Large",
    )
    ratio: float = Field(
        default=0.25, gt=0, le=1, description="channels of the semantic branch's first two stages against the detail branch's (lambda)"
    )
    expansion: int = Field(default=6, ge=1, le=16, description="factor of the channels inside a gather-and-expansion layer (epsilon)")
    head_channels: int = Field(default=1024, ge=1, le=4096, description="channels before the logits (C_t)")
    booster: bool = Field(default=True, description="in training, heads on the semantic branch's stages, each with the loss of the logits")
    booster_channels: int = Field(default=128, ge=1, le=4096, description="channels before the booster heads' logits (C_t)")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of values dropped before the logits, in training")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A BiSeNet V2 with fresh weights from torch's global generator: He normal, as in the paper. Raises `ConfigError` on counts below 1."""
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"bisenet_v2: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    return BiSeNetV2(config, num_classes, in_channels)


class BiSeNetV2(SegmentationModel):
    """Detail branch at stride 8 and semantic branch at stride 32, guided by one another; see `Config`."""

    auxiliary_weights = dict.fromkeys(BOOSTED, 1.0)

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        c64, c128 = (max(round(config.width * channels), 2) for channels in (64, 128))
        stem, third = (max(round(config.ratio * channels), 2) for channels in (c64, c128))
        self.detail = nn.Sequential(
            nn.Sequential(conv_norm_relu(in_channels, c64, stride=2), conv_norm_relu(c64, c64)),
            nn.Sequential(conv_norm_relu(c64, c64, stride=2), conv_norm_relu(c64, c64), conv_norm_relu(c64, c64)),
            nn.Sequential(conv_norm_relu(c64, c128, stride=2), conv_norm_relu(c128, c128), conv_norm_relu(c128, c128)),
        )
        self.stem = _Stem(in_channels, stem)
        self.stage3 = _stage(stem, third, config.depth, config.expansion)
        self.stage4 = _stage(third, c64, config.depth, config.expansion)
        self.stage5 = _stage(c64, c128, 3 * config.depth, config.expansion)
        self.context = _ContextEmbedding(c128)
        self.aggregation = _GuidedAggregation(c128)
        self.head = conv_head(c128, config.head_channels, num_classes, config.dropout)
        self.booster = nn.ModuleDict()
        if config.booster:
            for name, channels in zip(BOOSTED, (stem, third, c64, c128), strict=True):
                self.booster[name] = conv_head(channels, config.booster_channels, num_classes, config.dropout)
        self.apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W); in training the booster's beside them."""
        height, width = image_NCHW.shape[-2:]
        image_NCHW = pad_to_multiple(image_NCHW, 32)
        size = image_NCHW.shape[-2:]
        found = [self.stem(image_NCHW)]
        for stage in (self.stage3, self.stage4, self.stage5):
            found.append(stage(found[-1]))
        features = self.aggregation(self.detail(image_NCHW), self.context(found[-1]))
        logits_NCHW = resize(self.head(features), size)[:, :, :height, :width]
        if not (self.training and len(self.booster)):
            return logits_NCHW
        boosted = {
            name: resize(self.booster[name](features), size)[:, :, :height, :width] for name, features in zip(BOOSTED, found, strict=True)
        }
        return Outputs(logits_NCHW, boosted)


class _Stem(nn.Module):
    """Stride 4 by a convolution and by pooling, side by side (figure 4a)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(in_channels, channels, stride=2)
        self.left = nn.Sequential(conv_norm_relu(channels, channels // 2, 1), conv_norm_relu(channels // 2, channels, stride=2))
        self.right = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse = conv_norm_relu(2 * channels, channels)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        features = self.first(image_NCHW)
        result: Tensor = self.fuse(torch.cat([self.left(features), self.right(features)], dim=1))
        return result


class _GatherExpand(nn.Module):
    """3x3 convolution, depthwise convolution to `expansion` times the channels, 1x1 back, and the way past them (figures 5b and 5c)."""

    def __init__(self, before: int, after: int, expansion: int, *, stride: int = 1) -> None:
        super().__init__()
        wide = before * expansion
        layers: list[nn.Module] = [conv_norm_relu(before, before)]
        if stride == 2:
            layers += [conv_norm(before, wide, stride=2, groups=before), conv_norm_relu(wide, wide, groups=wide)]
        else:
            layers += [conv_norm_relu(before, wide, groups=before)]
        self.main = nn.Sequential(*layers, conv_norm(wide, after, 1))
        self.shortcut = (
            nn.Sequential(conv_norm(before, before, stride=2, groups=before), conv_norm(before, after, 1)) if stride == 2 else nn.Identity()
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.relu(self.main(features) + self.shortcut(features))
        return result


class _ContextEmbedding(nn.Module):
    """The image's mean, added everywhere (figure 4b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(BatchNorm(channels), conv_norm_relu(channels, channels, 1))
        self.last = conv_norm_relu(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.last(features + self.mean(features.mean(dim=(2, 3), keepdim=True)))
        return result


class _GuidedAggregation(nn.Module):
    """Each branch's features through the gate of the other's, at both resolutions, summed at the finer (figure 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail_keep = nn.Sequential(conv_norm(channels, channels, groups=channels), nn.Conv2d(channels, channels, 1, bias=False))
        self.detail_down = nn.Sequential(conv_norm(channels, channels, stride=2), nn.AvgPool2d(3, stride=2, padding=1))
        self.semantic_up = conv_norm(channels, channels)
        self.semantic_keep = nn.Sequential(conv_norm(channels, channels, groups=channels), nn.Conv2d(channels, channels, 1, bias=False))
        self.fuse = conv_norm_relu(channels, channels)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        size = detail.shape[-2:]
        fine = self.detail_keep(detail) * torch.sigmoid(resize(self.semantic_up(semantic), size))
        coarse = self.detail_down(detail) * torch.sigmoid(self.semantic_keep(semantic))
        result: Tensor = self.fuse(fine + resize(coarse, size))
        return result


def _stage(before: int, after: int, repeats: int, expansion: int) -> nn.Sequential:
    """A layer that halves the size, and `repeats` that keep it."""
    return nn.Sequential(
        _GatherExpand(before, after, expansion, stride=2), *(_GatherExpand(after, after, expansion) for _ in range(repeats))
    )
