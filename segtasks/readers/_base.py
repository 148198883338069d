"""What a reader is. `scan` lists cheaply (no pixel is read); `read` brings one item's bytes and its truth.

A reader module has `Config` (frozen pydantic) and `build(config, source, spec=None) -> Reader`. `source` is a `Store` rooted at
the data set's URL; paths are POSIX and relative to it. `spec` is what `spec()` gave when the output was first planned: with it
nothing is inferred again, so that a source that grows, and every worker, keeps the same classes. A reader maps its source's
label values onto class indices and `ignore_index`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.image import Header
from segtasks.spec import DatasetSpec


@dataclass(frozen=True)
class SourceItem:
    """One input object as listed. `image_id` is the image's path relative to the source, unique in the data set."""

    image_id: str
    path: str  # relative to the source
    size: int  # bytes, image and labels together: what the partition counts
    version: str  # etag or size and mtime of image and label: changes when the content does
    split: str = ""
    group_id: str = ""  # video, patient, volume; a group is not cut across shards
    labels: Mapping[str, str] = field(default_factory=dict)  # files, for example {"mask": "masks/train/x.png"}
    details: str = ""  # what else `scan` hands to `read`, as JSON: the image's annotations out of a large file, a slice, a window


@dataclass(frozen=True)
class Instance:
    """One object; objects may overlap. `counts` is COCO's compressed RLE of a mask of the image's size; bbox is x, y, w, h."""

    category_id: int  # class index, never `background`
    bbox: tuple[float, float, float, float]
    area: float
    counts: bytes
    iscrowd: bool = False


@dataclass(frozen=True)
class RawSample:
    """One image's encoded bytes, as they are in the source (unless only a part is meant), and its truth in class indices."""

    image: bytes
    mask: NDArray[np.unsignedinteger[Any]] | None = None  # HxW, uint8 (uint16 above 255 classes), of the *oriented* image's size
    instances: tuple[Instance, ...] | None = None
    meta: Mapping[str, str] = field(default_factory=dict)  # camera, site, sequence, ...: `where` chooses by these
    referenced: Header | None = None  # set: the bytes stay where they are and `image` is empty; what their header says
    empty: bool = False  # nothing is there (a window without data): counted as a row of its id alone, and of nothing else
    spacing: tuple[float, ...] = ()  # size of a pixel along the image's axes, Y before X, in millimetres (or the unit of the map)
    axes: str = "YXC"  # ZYX, CZYX: a whole volume in NIfTI's bytes; mask and spacing are Z, Y, X, canonical (codecs.volume)


class Reader(Protocol):
    """Made once in the driver (`spec`, `scan`) and once in each worker (`read`)."""

    def spec(self) -> DatasetSpec:
        """Classes and ignore value; inferred ones are inferred here, once, and then written into the recipe."""
        ...

    def scan(self) -> Iterator[SourceItem]:
        """List every image. Raises `InputError` where the layout is not the format's, with what was found and needed."""
        ...

    def read(self, item: SourceItem) -> RawSample:
        """Raises `DataFault` for a fault of this item alone, and the store's own errors for everything else."""
        ...
