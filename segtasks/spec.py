"""The data set's spec: class names, colours, the ignore value and how images are decoded. It lives in the snapshot, nowhere else.

Stored masks always hold class indices 0..num_classes-1 and `ignore_index`; a reader maps its source's values onto them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from segtasks.config import Config

Byte = Annotated[int, Field(ge=0, le=255)]


class ClassSpec(Config):
    """One class: its index is its place in the list."""

    name: str = Field(min_length=1, description="class name")
    color: tuple[Byte, Byte, Byte] = Field(description="RGB, 0..255, used in palettes, overlays and charts")
    source_id: int | None = Field(default=None, description="the id that the source's own format has for it, where that is not the index")
    isthing: bool | None = Field(default=None, description="true: has instances; false: stuff or background; none: the source does not say")
    supercategory: str = Field(default="", description="the group it belongs to, where the source has such")


class LabelEncoding(Config):
    """How the *source's* label files say the class; only its reader looks at this. Stored masks hold indices whatever it says."""

    kind: Literal["index", "value", "color"] = Field(
        default="index", description="index: values are class indices; value, color: by the table; a color is 0xRRGGBB"
    )
    table: tuple[tuple[int, int], ...] = Field(default=(), description="pairs of value or color and class index (or ignore_index)")


class DecodePolicy(Config):
    """How bytes become a uint8 RGB array. Part of the spec, so that every later stage decodes alike."""

    max_pixels: int = Field(default=1 << 28, ge=1, description="images with more pixels in their header are refused unread")
    sixteen_bit: Literal["full_range", "min_max"] = Field(
        default="full_range",
        description="16-bit to 8-bit: full_range divides by 257; min_max stretches each image from its minimum to its maximum",
    )
    formats: tuple[str, ...] = Field(
        default=("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000"),
        description="Pillow format names that are tried; anything else is quarantined",
    )


class Resize(Config):
    """A size in pixels that images were, or are to be, brought to."""

    height: int = Field(ge=1, description="pixels")
    width: int = Field(ge=1, description="pixels")
    policy: Literal["stretch"] = Field(default="stretch", description="stretch: both sides to the size, aspect ratio not kept")


class DatasetSpec(Config):
    """What the rows mean. `classes` is empty for images without labels."""

    name: str = Field(description="the data set's name")
    classes: tuple[ClassSpec, ...] = Field(default=(), description="in index order")
    ignore_index: int = Field(default=255, ge=0, le=65535, description="value of pixels that no metric and no loss counts")
    decode: DecodePolicy = Field(default_factory=DecodePolicy, description="how bytes become pixels")
    label_encoding: LabelEncoding = Field(default_factory=LabelEncoding, description="how the source's label files say the class")
    resize: Resize | None = Field(default=None, description="set by preprocess: the size its images have")

    @model_validator(mode="after")
    def _names_are_unique(self) -> DatasetSpec:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"class names come twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _ignore_is_no_class(self) -> DatasetSpec:
        if self.ignore_index < len(self.classes):
            raise ValueError(f"ignore_index {self.ignore_index} is also a class index (there are {len(self.classes)} classes)")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.classes]

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """RGB by index, black where the index is no class; 256 entries."""
        colors = [item.color for item in self.classes][:256]
        return colors + [(0, 0, 0)] * (256 - len(colors))
