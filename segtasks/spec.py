"""The data set's spec: class names, colours, the ignore value and how images are decoded. It lives in the snapshot, nowhere else.

Stored masks always hold class indices 0..num_classes-1 and `ignore_index`; a reader maps its source's values onto them.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from segtasks.config import Config

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
MEAN_COLOR: Color = (124, 116, 104)  # ImageNet's mean
BACKGROUND_NAMES = ("background", "_background_", "__background__", "bg")  # what data sets call the class that is nothing


class ClassSpec(Config):
    """One class: its index is its place in the list."""

    name: str = Field(min_length=1, description="class name")
    color: Color = Field(description="RGB, 0..255, used in palettes, overlays and charts")
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
    """How images were, or are to be, brought to a size in pixels."""

    policy: Literal["stretch", "letterbox", "longest", "shortest"] = Field(
        default="stretch",
        description="stretch: both sides to height and width, aspect ratio not kept; letterbox: as large as fits into them, in the middle, "
        "the rest padded; longest, shortest: that side to size, aspect ratio kept, so that images may differ in size",
    )
    height: int | None = Field(default=None, ge=1, description="pixels, for stretch and letterbox")
    width: int | None = Field(default=None, ge=1, description="pixels, for stretch and letterbox")
    size: int | None = Field(default=None, ge=1, description="pixels of the longest or shortest side, for the policies of these names")
    fill: Color = Field(default=MEAN_COLOR, description="RGB of letterbox's padding; by default ImageNet's mean, which normalises to 0")

    @model_validator(mode="after")
    def _has_its_size(self) -> Resize:
        needed = ["height", "width"] if self.policy in ("stretch", "letterbox") else ["size"]
        given = [name for name in ("height", "width", "size") if getattr(self, name) is not None]
        if given != needed:
            raise ValueError(f"policy {self.policy} has {' and '.join(given) or 'no size'}; needed: {' and '.join(needed)}")
        return self

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Height and width that every image gets; None where they depend on the image."""
        return (self.height, self.width) if self.height is not None and self.width is not None else None

    def __str__(self) -> str:
        return f"{self.policy} to {self.height}x{self.width} (height x width)" if self.fixed else f"{self.policy} side to {self.size}"


class Crop(Config):
    """A region of an image, in pixels as displayed. One that reaches over the edge is refused."""

    top: int = Field(default=0, ge=0, description="rows left out above")
    left: int = Field(default=0, ge=0, description="columns left out on the left")
    height: int = Field(ge=1, description="rows kept")
    width: int = Field(ge=1, description="columns kept")

    def __str__(self) -> str:
        return f"{self.height}x{self.width} at row {self.top}, column {self.left}"

    @property
    def inside(self) -> tuple[slice, slice]:
        """To index an array of height x width with."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class DatasetSpec(Config):
    """What the rows mean. `classes` is empty for images without labels."""

    name: str = Field(description="the data set's name")
    classes: tuple[ClassSpec, ...] = Field(default=(), description="in index order")
    ignore_index: int = Field(default=255, ge=0, le=65535, description="value of pixels that no metric and no loss counts")
    decode: DecodePolicy = Field(default_factory=DecodePolicy, description="how bytes become pixels")
    label_encoding: LabelEncoding = Field(default_factory=LabelEncoding, description="how the source's label files say the class")
    crop: Crop | None = Field(default=None, description="set by preprocess: the region of the source's images that its images are made of")
    resize: Resize | None = Field(default=None, description="set by preprocess: how its images got their size, after the crop")

    @model_validator(mode="after")
    def _names_are_unique(self) -> DatasetSpec:
        twice = sorted(name for name, times in Counter(self.names).items() if times > 1)
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
