"""What a check measures on one image and its truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.checks.instances import InstanceFacts, instance_facts
from segtasks.checks.masks import class_pixels
from segtasks.checks.pixels import pixel_facts, storage_traits
from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import decode_mask
from segtasks.errors import LabelError
from segtasks.readers._base import Instance
from segtasks.readers._objects import paint
from segtasks.shards.pixels import image_bytes
from segtasks.spec import DatasetSpec
from segtasks.storage import StorageOptions


def measure(row: Mapping[str, Any], spec: DatasetSpec, storage: StorageOptions | None) -> dict[str, Any]:
    """What a row of samples becomes. Raises `DataFault` for pixels or truth that cannot be had or decoded any more."""
    data = image_bytes(row, storage)
    pixels = decode_image(data, spec.decode).pixels
    height, width = pixels.shape[:2]
    mask = mask_of(row, spec)
    if mask is not None and mask.shape != (height, width):
        raise LabelError(f"the mask is {mask.shape[0]}x{mask.shape[1]}, the image {height}x{width} (height x width)")
    instances = row["instances"]
    objects: InstanceFacts | None = None
    if instances is not None:
        objects = instance_facts(instances, height, width, spec.names, mask, spec.ignore_index)
    counts: tuple[list[int] | None, int | None] = None, None
    if spec.classes and (mask is not None or instances is not None):
        counts = class_pixels(mask if mask is not None else paint_rows(instances, height, width, spec), spec)
    facts = pixel_facts(pixels)
    return {
        "width": width,
        "height": height,
        "stored": storage_traits({pair["key"]: pair["value"] for pair in row["meta"] or ()}),
        "file_sha256": sha256(data).digest(),
        "pixels_sha256": facts.sha256,
        "phash": facts.phash,
        "mean": facts.mean,
        "std": facts.std,
        "class_pixels": counts[0],
        "ignored_pixels": counts[1],
        "object_pixels": list(objects.pixels) if objects else None,
        "faults": [asdict(fault) for fault in objects.faults] if objects else None,
    }


def mask_of(row: Mapping[str, Any], spec: DatasetSpec) -> NDArray[np.unsignedinteger[Any]] | None:
    """The row's mask as class indices HxW, where it has one."""
    encoded = (row["mask"] or {}).get("bytes")
    return None if encoded is None else decode_mask(encoded, spec.decode.max_pixels)


def paint_rows(instances: Sequence[Mapping[str, Any]], height: int, width: int, spec: DatasetSpec) -> Any:
    """The instances of a row as a mask of class indices."""
    kept = [Instance(one["category_id"], tuple(one["bbox"]), one["area"], bytes(one["counts"]), one["iscrowd"]) for one in instances]
    return paint(kept, height, width, ignore_index=spec.ignore_index)
