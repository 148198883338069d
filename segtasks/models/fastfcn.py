"""FastFCN (Wu et al., "Rethinking Dilated Convolution in the Backbone for Semantic Segmentation", arXiv 2019): joint pyramid upsampling.

For features at stride 8 without an atrous backbone: that stays at output stride 32, and a joint pyramid makes of its last three stages what
dilation would have given. With the head EncNet this takes half the time on ResNet-50 and a third on ResNet-101, as the authors
measured; the heads PSP and ASPP cost more than the backbone.

Differs from the authors' code in these points: the stem is torchvision's 7x7 convolution (theirs are three 3x3), so that its weights
load; bilinear upsampling does not align corners; the auxiliary head weighs 0.4 (theirs 0.2, or 0.4 with PSP).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.models._backbones import ResNetName, build_backbone
from segtasks.models._base import Loss, Outputs, SegmentationModel
from segtasks.models._encoding import classes_present
from segtasks.models._fastfcn_heads import HeadName, build_head
from segtasks.models._heads import fcn_head
from segtasks.models._jpu import JPU
from segtasks.models._layers import he_normal, pad_to_multiple, resize

SMALL = {"backbone": "resnet18", "width": 32, "codewords": 8}  # options of the contract tests


class Config(BaseConfig):
    """FastFCN; the defaults are the paper's, on ResNet-50."""

    backbone: ResNetName = Field(default="resnet50", description="feature extractor, under torchvision's names")
    head: HeadName = Field(
        default="encnet", description="encnet (context encoding, best in the paper), psp (pyramid pooling), aspp (of DeepLabv3) or fcn"
    )
    width: int = Field(default=512, ge=2, le=2048, description="channels of the joint pyramid's layers")
    codewords: int = Field(default=32, ge=1, le=512, description="codewords of the encoding layer (head encnet)")
    presence_weight: float = Field(
        default=0.2, ge=0, description="weight of the loss on which classes an image holds (head encnet; the SE-loss); 0: without"
    )
    auxiliary_weight: float = Field(
        default=0.4, ge=0, description="weight of the FCN head's loss on the stage before the last; 0: without that head"
    )


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A FastFCN with fresh weights from torch's global generator. Raises `ConfigError` on counts below 1."""
    if num_classes < 1:
        raise ConfigError(f"fastfcn: {num_classes} classes; needed: at least 1")
    return FastFCN(config, num_classes, in_channels)


class FastFCN(SegmentationModel):
    """A ResNet at output stride 32, the joint pyramid, a head at stride 8."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, in_channels)
        self.jpu = JPU(self.backbone.channels[-3:], config.width).apply(he_normal)
        self.presence_weight = config.presence_weight
        self.head = build_head(
            config.head, 4 * config.width, num_classes, codewords=config.codewords, presence=config.presence_weight > 0
        ).apply(he_normal)
        self.aux_classifier = None
        if config.auxiliary_weight:
            self.auxiliary_weights = {"auxiliary": config.auxiliary_weight}
            self.aux_classifier = fcn_head(self.backbone.channels[-2], num_classes).apply(he_normal)

    def forward(self, image_NCHW: Tensor) -> Tensor | Outputs:
        """float (N, in_channels, H, W), any H, W >= 1 -> logits (N, num_classes, H, W); in training also the other heads' logits."""
        height, width = image_NCHW.shape[-2:]
        image_NCHW = pad_to_multiple(image_NCHW, self.backbone.stride)
        features = self.backbone(image_NCHW)
        coarse, presence = self.head(self.jpu(features[-3:]))
        logits_NCHW = resize(coarse, image_NCHW.shape[-2:])[:, :, :height, :width]
        auxiliary = {}
        if self.training and presence is not None:
            auxiliary["presence"] = presence
        if self.training and self.aux_classifier is not None:
            auxiliary["auxiliary"] = resize(self.aux_classifier(features[-2]), image_NCHW.shape[-2:])[:, :, :height, :width]
        return Outputs(logits_NCHW, auxiliary) if auxiliary else logits_NCHW

    def training_loss(self, output: Tensor | Outputs, target_NHW: Tensor, loss: Loss) -> Tensor:
        """With the head encnet also the binary cross-entropy of which classes the image holds, a mean over images and classes."""
        total = super().training_loss(output, target_NHW, loss)
        if isinstance(output, Tensor) or "presence" not in output.auxiliary:
            return total
        presence = output.auxiliary["presence"].float()
        present = classes_present(target_NHW, presence.shape[1]).to(presence)
        return total + self.presence_weight * F.binary_cross_entropy_with_logits(presence, present)
