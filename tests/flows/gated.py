"""A model plug-in for the tests: a small U-Net that stops, while the file `hold` exists, after as many batches as the file says."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from segtasks.config import Config as BaseConfig
from segtasks.models import unet


class Config(BaseConfig):
    """Where the file is."""

    hold: str = Field(description="file with the number of batches that each worker may still do; no file: no limit")


def build(config: Config, num_classes: int, in_channels: int = 3) -> nn.Module:
    net = unet.build(unet.Config(width=4, depth=2), num_classes, in_channels)
    net.register_forward_pre_hook(Gate(Path(config.hold)))
    return net


class Gate:
    def __init__(self, hold: Path) -> None:
        self._hold, self._batches = hold, 0

    def __call__(self, _: nn.Module, images: tuple[Tensor]) -> None:
        if len(images[0]) == 1:
            return  # an example, by which the model is made ready
        self._batches += 1
        try:
            while self._batches > int(self._hold.read_text()):
                self._hold.with_suffix(".reached").touch()
                time.sleep(0.05)
        except FileNotFoundError:
            return
