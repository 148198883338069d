"""Options of what happens to a model's logits after it. Imported by the command line: no torch here."""

from __future__ import annotations

from pydantic import Field

from segtasks.config import Config


class Crf(Config):
    """Fully connected CRF over the model's probabilities at the image's own size. The defaults are DeepLab v2's on PASCAL VOC."""

    iterations: int = Field(default=10, ge=1, le=100, description="of mean field; DeepLab uses 10")
    bilateral_weight: float = Field(default=4.0, ge=0, description="of the appearance kernel: near pixels of like colour have one class")
    bilateral_xy: float = Field(default=67.0, gt=0, description="its standard deviation in pixels")
    bilateral_rgb: float = Field(default=3.0, gt=0, description="its standard deviation in levels of 0..255")
    spatial_weight: float = Field(default=3.0, ge=0, description="of the smoothness kernel: small isolated regions go")
    spatial_xy: float = Field(default=1.0, gt=0, description="its standard deviation in pixels")
    exact_pixels: int = Field(
        default=4096, ge=0, le=1 << 16, description="images of up to so many pixels are filtered exactly (memory: squared)"
    )
