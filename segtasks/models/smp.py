"""Segmentation Models PyTorch (Iakubovskii, "Segmentation Models PyTorch", GitHub 2019): its architectures with its encoders.

For comparing with models of that library, or for an encoder that only it has; size and work are those of the chosen encoder.

Needs the extra `smp`, which imports torchvision: install the torchvision that belongs to this torch. ImageNet weights are never fetched:
give the encoder's file as the run's `weights`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, MissingExtra
from segtasks.models._layers import pad_to_multiple

SMALL = {"arch": "unet", "encoder": "mobilenet_v2"}  # options of the contract tests
STRIDE = 32  # of its encoders at the default depth of 5


class Config(BaseConfig):
    """A model of Segmentation Models PyTorch."""

    arch: str = Field(default="unet", description="architecture, as smp.create_model names it: unet, fpn, pspnet, deeplabv3plus, ...")
    encoder: str = Field(default="resnet34", description="encoder, as smp names it: resnet34, mobilenet_v2, efficientnet-b0, ...")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of the architecture, such as decoder_channels")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The model with fresh weights. Raises `MissingExtra` where the library cannot be imported, `ConfigError` where it refuses."""
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"smp: {in_channels} input channels and {num_classes} classes; needed: at least 1 of each")
    try:
        import segmentation_models_pytorch as smp
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise MissingExtra(f"model smp needs segmentation_models_pytorch ({error}): pip install 'segtasks[smp]'") from error
    fixed = {"encoder_weights": None, "in_channels": in_channels, "classes": num_classes}
    if clash := sorted({*config.arguments} & {*fixed, "activation", "aux_params"}):
        raise ConfigError(f"smp: {', '.join(clash)} cannot be given in arguments: they follow the data set, or are not used")
    try:
        net = smp.create_model(config.arch, encoder_name=config.encoder, **fixed, **config.arguments)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"smp: cannot build {config.arch} with the encoder {config.encoder} ({type(error).__name__}): {error}") from error
    return Smp(net)


class Smp(nn.Module):
    """Its model with any size in, padded to multiples of 32 by repeating the edge and cropped back."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def backbone(self) -> nn.Module:
        """The encoder, for the run's `weights`."""
        encoder: nn.Module = self.net.encoder  # type: ignore[assignment]
        return encoder

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """float (N, C, H, W), any H, W >= 1 -> logits (N, num_classes, H, W)."""
        height, width = image_NCHW.shape[-2:]
        logits_NCHW: Tensor = self.net(pad_to_multiple(image_NCHW, STRIDE))
        return logits_NCHW[:, :, :height, :width]
