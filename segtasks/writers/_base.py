"""What a writer is. `write` puts one image's own files under the target; `finish` writes what is about all of them: lists, JSON, classes.

A writer module has `Config` (frozen pydantic) and `build(config, target, spec) -> Writer`. `target` is a `Store` rooted at the folder to
write to; `spec` says what the samples' class indices mean. Workers write different images at the same time, so that `write` touches
nothing that two images share, and an image that is written twice gives the same files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segtasks.readers._base import Instance

JSON = dict[str, Any]


@dataclass(frozen=True)
class Scored(Instance):
    """An instance with the model's score; None for truth."""

    score: float | None = None


@dataclass(frozen=True)
class Labelled:
    """One image as it goes out, upright, with its truth or its prediction."""

    image_id: str
    split: str
    height: int  # as displayed
    width: int
    mask: NDArray[np.unsignedinteger[Any]] | None  # HxW, class indices and `ignore_index`
    instances: tuple[Scored, ...] | None
    image: bytes | None = None  # encoded, without a turn in its EXIF; none where only labels are wanted
    media_type: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)


class Writer(Protocol):
    """Made once in the driver (`finish`) and once in each worker (`write`)."""

    def write(self, sample: Labelled) -> JSON:
        """Write the image's files and return what `finish` needs of it.

        Raises `DataFault` for what this image alone cannot be written for, and the store's own errors.
        """
        ...

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        """Write the files about all images. What `write` returned by split, in the order of the shard set; may be iterated repeatedly."""
        ...
