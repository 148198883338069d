"""Cut an image into overlapping tiles of one size. Which tiles there are is arithmetic of the image's size, so their ids are stable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segtasks.config import Config
from segtasks.spec import BACKGROUND_NAMES, MEAN_COLOR, Color
from segtasks.transforms.pad import pad_image, pad_mask
from segtasks.transforms.seeding import stable_seed


class Tiling(Config):
    """Tiles of one size."""

    height: int = Field(ge=1, description="pixels")
    width: int = Field(ge=1, description="pixels")
    overlap: int = Field(default=0, ge=0, description="pixels that neighbours share, at least")
    edge: Literal["shift", "pad"] = Field(
        default="shift",
        description="the last tile of a row or column: shift moves it back into the image (it overlaps more), pad lets it reach over the "
        "edge; an image smaller than a tile is padded below and on the right either way",
    )
    keep_empty: float = Field(
        default=1.0, ge=0, le=1, description="share of the tiles without foreground that are kept, chosen by a hash of their id"
    )
    background: tuple[str, ...] = Field(
        default=BACKGROUND_NAMES, description="classes that are no foreground, whatever their case; ignored pixels are none either"
    )
    fill: Color = Field(default=MEAN_COLOR, description="RGB of the padding; by default ImageNet's mean, which normalises to 0")

    @model_validator(mode="after")
    def _moves_on(self) -> Tiling:
        if self.overlap >= min(self.height, self.width):
            raise ValueError(f"overlap {self.overlap} of tiles {self.height}x{self.width}; needed: less than the shorter side")
        return self


@dataclass(frozen=True)
class Tile:
    """A region of an image in pixels. It may reach over the lower and the right edge."""

    top: int
    left: int
    height: int
    width: int

    def id_of(self, image_id: str) -> str:
        return f"{image_id}#y={self.top:04d},x={self.left:04d}"

    def rows(self, height: int) -> NDArray[np.intp]:
        """For each row of the tile that of an image of `height`; -1: padding."""
        return _places(self.top, self.height, height)

    def columns(self, width: int) -> NDArray[np.intp]:
        return _places(self.left, self.width, width)

    def cut_image(self, image: NDArray[np.uint8], fill: Color) -> NDArray[np.uint8]:
        """uint8 HxWx3 of the tile's size."""
        return pad_image(image[self._inside], (self.height, self.width), (0, 0), fill)

    def cut_mask(self, mask: NDArray[np.unsignedinteger[Any]], ignore_index: int) -> NDArray[np.unsignedinteger[Any]]:
        """Class indices HxW of the tile's size, the padding ignored."""
        return pad_mask(mask[self._inside], (self.height, self.width), (0, 0), ignore_index)

    @property
    def _inside(self) -> tuple[slice, slice]:
        return np.s_[self.top : self.top + self.height, self.left : self.left + self.width]


def plan_tiles(height: int, width: int, tiling: Tiling) -> list[Tile]:
    """The tiles of an image, row by row: every pixel is in one, and neighbours share `overlap` pixels at least."""
    tops = _starts(height, tiling.height, tiling)
    lefts = _starts(width, tiling.width, tiling)
    return [Tile(top, left, tiling.height, tiling.width) for top in tops for left in lefts]


def keeps_empty(tile_id: str, tiling: Tiling) -> bool:
    """Whether a tile without foreground is among those kept: the same in every run, whatever other tiles there are."""
    return stable_seed("keep_empty", tile_id) < tiling.keep_empty * 2**64


def _starts(length: int, size: int, tiling: Tiling) -> list[int]:
    step = size - tiling.overlap
    count = max(1, -(-(length - tiling.overlap) // step))
    last = max(0, length - size) if tiling.edge == "shift" else (count - 1) * step
    return [min(number * step, last) for number in range(count)]


def _places(start: int, size: int, length: int) -> NDArray[np.intp]:
    places = np.arange(start, start + size, dtype=np.intp)
    places[places >= length] = -1
    return places
