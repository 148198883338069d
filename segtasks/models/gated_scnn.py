"""Gated-SCNN (Takikawa et al., "Gated-SCNN: Gated Shape CNNs for Semantic Segmentation", ICCV 2019): a backbone and a stream for shape.

For sharp borders and thin objects (poles, signs): a shallow stream at full resolution learns where classes meet, and its boundaries
join the backbone's features in ASPP; 40.5 million parameters on ResNet-50, and 419 GMAC for 512x1024 pixels (deeplabv3plus: 75 by default,
365 at this output stride without separable convolutions).

Differs from the paper and its code (nv-tlabs/GSCNN) in these points:
- ResNet instead of WideResNet-38, with layer2 to layer4 at the gates and layer1 in the decoder, as PaddleSeg has it;
- bilinear upsampling with align_corners=False; the boundary map is averaged, not sampled, down to ASPP's size; ASPP's projection and the
  low-level features have BatchNorm and ReLU; no bias right before a BatchNorm;
- `edges: sobel`, the default, is the image's gradient: without thresholds it needs no scale of the input and is the same on every device.
  The paper's Canny (`edges: canny`) is OpenCV's, pixel by pixel, but for weak edges further than `canny_steps` pixels from a strong one
  (64: 0.4% of CamVid's edge pixels; 256: none); its thresholds are of grey levels, where in the code they meet standardised images cast
  to bytes;
- segmentation is charged by the configured loss (there: cross-entropy weighted by each image's classes);
- the boundary's cross-entropy is taken of logits (in the code the sigmoid is applied twice), and boundaries are those of all classes:
  neither the image's border nor ignored pixels make one, and they cost nothing;
- the dual task compares zeta of equation 4 (in the code filter and derivative return their input, and each class is divided by the
  batch's largest value), at the paper's temperature 1 (in the code 0.5).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._aspp import ASPP, scaled_rates
from segtasks.models._backbones import ResNetName, build_backbone
from segtasks.models._backbones.resnet import BasicBlock
from segtasks.models._base import Loss, Outputs, SegmentationModel
from segtasks.models._dual_task import boundary_consistency, boundary_cross_entropy, dual_task, semantic_boundaries
from segtasks.models._image_edges import canny, gradient_magnitude
from segtasks.models._layers import BatchNorm, conv_norm_relu, he_normal, pad_to_multiple, resize

Rate = Annotated[int, Field(ge=1, le=64)]
Weight = Annotated[float, Field(ge=0)]
LOW_LEVEL_CHANNELS = 48
GREY_LEVELS = (58.395, 57.12, 57.375)  # 255 x ImageNet's standard deviations, as training's `std` has them by default
CANNY = (10.0, 100.0)  # the reference code's thresholds

SMALL = {"backbone": "resnet18", "channels": 32}  # options of the contract tests


class Config(BaseConfig):
    """Gated-SCNN; the defaults are the paper's, on ResNet-50."""

    backbone: ResNetName = Field(default="resnet50", description="the regular stream, under torchvision's names")
    output_stride: Literal[8, 16] = Field(default=8, description="of the regular stream; 16 is coarser, and takes half the time")
    rates: tuple[Rate, Rate, Rate] = Field(default=(6, 12, 18), description="atrous rates of ASPP at output stride 16; doubled at 8")
    channels: int = Field(default=256, ge=1, le=2048, description="channels of ASPP and decoder")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of values dropped after ASPP, in training")
    edges: Literal["sobel", "canny", "none"] = Field(
        default="sobel",
        description="what joins the shape stream's boundaries: the image's gradient, Canny's edges (10, 100) or nothing",
    )
    grey_levels: tuple[float, ...] = Field(
        default=(),
        description="for canny: levels of 0..255 in a unit of the input (255 x std), one for all or one a channel; none: ImageNet's",
    )
    canny_steps: int = Field(default=64, ge=0, le=1024, description="for canny: pixels that weak edges are followed for")
    boundary_radius: int = Field(default=2, ge=1, le=16, description="pixels on either side of where classes meet that count as boundary")
    boundary_weight: Weight = Field(default=20.0, description="of the boundary's cross-entropy; the paper's lambda 1")
    dual_weight: Weight = Field(default=1.0, description="of |boundaries of the prediction - those of the truth|; the paper's lambda 3")
    consistency_weight: Weight = Field(default=1.0, description="of the cross-entropy on predicted boundaries; the paper's lambda 4")
    temperature: float = Field(default=1.0, gt=0, description="of the Gumbel softmax in the dual task's loss; the paper's tau")
    threshold: float = Field(default=0.8, ge=0, lt=1, description="probability above which a pixel is taken for a predicted boundary")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A Gated-SCNN with fresh weights from torch's global generator. Raises `ConfigError` on counts that do not fit."""
    if num_classes < 1:
        raise ConfigError(f"gated_scnn: {num_classes} classes; needed: at least 1")
    return GatedSCNN(config, num_classes, in_channels)


class GatedSCNN(SegmentationModel):
    """A regular stream (backbone, ASPP, decoder) that is told by the shape stream where classes meet; see `Config`."""

    grey_levels: Tensor

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.backbone = build_backbone(config.backbone, in_channels, output_stride=config.output_stride)
        stem, low, *gates = self.backbone.channels
        self.shape = ShapeStream(stem, gates)
        self.fuse = nn.Conv2d(1 if config.edges == "none" else 2, 1, 1, bias=False)
        self.aspp = BoundaryASPP(gates[-1], config.channels, scaled_rates(config.rates, config.output_stride), dropout=config.dropout)
        self.low_level = conv_norm_relu(low, LOW_LEVEL_CHANNELS, 1)
        self.decoder = nn.Sequential(
            conv_norm_relu(config.channels + LOW_LEVEL_CHANNELS, config.channels), conv_norm_relu(config.channels, config.channels)
        )
        self.head = nn.Conv2d(config.channels, num_classes, 1)
        for module in (self.shape, self.aspp, self.low_level, self.decoder, self.head):
            module.apply(he_normal)
        self.register_buffer("grey_levels", _grey_levels(config, in_channels), persistent=False)

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W); in training `boundary` too, logits (N, 1, H, W)."""
        height, width = image_NCHW.shape[-2:]
        padded_NCHW = pad_to_multiple(image_NCHW, self.backbone.stride)
        size = padded_NCHW.shape[-2:]
        stem, low, *gates = self.backbone(padded_NCHW)
        boundary_N1HW = self.shape(stem, gates, size)
        found = [boundary_N1HW.sigmoid()]
        if self.config.edges != "none":
            found.append(pad_to_multiple(self._edges(image_NCHW), self.backbone.stride).to(boundary_N1HW.dtype))
        boundary = F.avg_pool2d(self.fuse(torch.cat(found, dim=1)).sigmoid(), self.config.output_stride)
        low_level = self.low_level(low)
        coarse = resize(self.aspp(gates[-1], boundary), low_level.shape[-2:])
        logits_NCHW = resize(self.head(self.decoder(torch.cat([coarse, low_level], dim=1))), size)[:, :, :height, :width]
        if self.training:
            return Outputs(logits_NCHW, {"boundary": boundary_N1HW[:, :, :height, :width]})
        return logits_NCHW

    def _edges(self, image_NCHW: Tensor) -> Tensor:
        image_NCHW = image_NCHW.detach().float()
        if self.config.edges == "canny":
            return canny(image_NCHW * self.grey_levels, *CANNY, steps=self.config.canny_steps)
        return gradient_magnitude(image_NCHW)

    def training_loss(self, output: Tensor | Outputs, target_NHW: Tensor, loss: Loss) -> Tensor:
        """loss(logits) + boundary_weight x the boundary's cross-entropy + dual_weight x L_reg-> + consistency_weight x L_reg<-.

        Means over the whole batch; the last three are plain, whatever weights `loss` gives the classes.
        """
        if isinstance(output, Tensor):
            return loss(output, target_NHW)
        config, total = self.config, loss(output.logits_NCHW, target_NHW)
        with torch.autocast(target_NHW.device.type, enabled=False):
            logits_NCHW, boundary_NHW = output.logits_NCHW.float(), output.auxiliary["boundary"][:, 0].float()
            truth_NHW, valid_NHW = semantic_boundaries(target_NHW, self.num_classes, config.boundary_radius)
            if config.boundary_weight:
                total = total + config.boundary_weight * boundary_cross_entropy(boundary_NHW, truth_NHW, valid_NHW)
            if config.dual_weight:
                total = total + config.dual_weight * dual_task(logits_NCHW, target_NHW, valid_NHW, config.temperature)
            if config.consistency_weight:
                term = boundary_consistency(logits_NCHW, target_NHW, valid_NHW, boundary_NHW.detach(), config.threshold)
                total = total + config.consistency_weight * term
        return total


class ShapeStream(nn.Module):
    """Three times a residual block, half the channels and a gate, all at the image's size; then the boundary's logits."""

    def __init__(self, channels: int, gates: list[int]) -> None:
        super().__init__()
        widths = [channels >> step for step in range(len(gates))]
        self.sides = nn.ModuleList(nn.Conv2d(before, 1, 1, bias=False) for before in gates)
        self.blocks = nn.ModuleList(BasicBlock(width, width, 1, 1) for width in widths)
        self.halve = nn.ModuleList(nn.Conv2d(width, width // 2, 1) for width in widths)
        self.gates = nn.ModuleList(GatedConv(width // 2) for width in widths)
        self.head = nn.Conv2d(widths[-1] // 2, 1, 1, bias=False)

    def forward(self, stem: Tensor, regular: list[Tensor], size: torch.Size) -> Tensor:
        shape = resize(stem, size)
        for side, block, halve, gate, features in zip(self.sides, self.blocks, self.halve, self.gates, regular, strict=True):
            shape = gate(halve(block(shape)), resize(side(features), size))
        logits_N1HW: Tensor = self.head(shape)
        return logits_N1HW


class GatedConv(nn.Module):
    """The gated convolutional layer (equations 1 and 2): shape features weighted by 1 + attention, which sees the regular stream too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        both = channels + 1
        self.attention = nn.Sequential(
            BatchNorm(both), nn.Conv2d(both, both, 1), nn.ReLU(inplace=True), nn.Conv2d(both, 1, 1, bias=False), BatchNorm(1), nn.Sigmoid()
        )
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, shape: Tensor, regular_N1HW: Tensor) -> Tensor:
        attention_N1HW = self.attention(torch.cat([shape, regular_N1HW], dim=1))
        result: Tensor = self.conv(shape * (attention_N1HW + 1))
        return result


class BoundaryASPP(ASPP):
    """ASPP that projects the boundary map together with its own features."""

    def __init__(self, before: int, channels: int, rates: tuple[int, ...], *, dropout: float) -> None:
        super().__init__(before, channels, rates, dropout=dropout)
        self.boundary = conv_norm_relu(1, channels, 1)
        self.project = nn.Sequential(*conv_norm_relu((len(self.convs) + 1) * channels, channels, 1), nn.Dropout(dropout))

    def forward(self, features: Tensor, boundary_N1HW: Tensor) -> Tensor:  # type: ignore[override]
        found = [conv(features) for conv in self.convs]
        found[-1] = found[-1].expand(-1, -1, *features.shape[-2:])  # one pixel upsampled
        result: Tensor = self.project(torch.cat([*found, self.boundary(boundary_N1HW)], dim=1))
        return result


def _grey_levels(config: Config, in_channels: int) -> Tensor:
    """(1, in_channels or 1, 1, 1)."""
    levels = config.grey_levels or (GREY_LEVELS if in_channels == 3 else (sum(GREY_LEVELS) / 3,))
    if len(levels) not in (1, in_channels):
        raise ConfigError(f"gated_scnn: grey_levels has {len(levels)} numbers; needed: one, or one for each of the {in_channels} channels")
    return torch.tensor(levels, dtype=torch.float32).view(1, -1, 1, 1)
