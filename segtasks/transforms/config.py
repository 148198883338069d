"""How training images are augmented."""

from __future__ import annotations

from pydantic import Field, model_validator

from segtasks.config import Config


class AugmentConfig(Config):
    """Joint image-and-mask augmentation, drawn from (seed, epoch, image id) alone."""

    scale: tuple[float, float] = Field(
        default=(0.75, 1.5), description="range of the random zoom (log-uniform) before the crop; [1, 1]: none"
    )
    crop: tuple[int, int] | None = Field(
        default=None, description="height and width in pixels that the model trains on; none: the image's own size"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")
    brightness: float = Field(default=0.2, ge=0, lt=1, description="largest relative change of brightness")
    contrast: float = Field(default=0.2, ge=0, lt=1, description="largest relative change of contrast")
    saturation: float = Field(default=0.2, ge=0, lt=1, description="largest relative change of saturation")

    @model_validator(mode="after")
    def _ranges(self) -> AugmentConfig:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}; needed: two positive numbers, the smaller first")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop is {list(self.crop)}; needed: height and width of at least 1 pixel")
        return self
