"""What a check measures on one image and its truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.checks.instances import InstanceFacts, instance_facts
from segtasks.checks.masks import class_pixels
from segtasks.checks.pixels import pixel_facts, storage_traits
from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import decode_mask
from segtasks.codecs.volume import decode_volume
from segtasks.errors import LabelError
from segtasks.readers._base import Instance
from segtasks.readers._objects import paint
from segtasks.reporting.data import Mask
from segtasks.shards.pixels import image_bytes
from segtasks.shards.schema import IMAGE_AXES
from segtasks.spec import DatasetSpec
from segtasks.stages._volumes import middle_slice
from segtasks.storage import StorageOptions


@dataclass(frozen=True)
class Opened:
    """A row, decoded. Of a whole volume `pixels` and `shown` are the middle slice, and `mask` is Z, Y, X."""

    data: bytes
    pixels: NDArray[np.uint8]  # HxWx3
    shown: Mask | None  # HxW: the truth of these pixels, objects painted where there is no mask
    mask: Mask | None
    sha256: bytes | None = None  # of a volume's voxels


def open_row(row: Mapping[str, Any], spec: DatasetSpec, storage: StorageOptions | None) -> Opened:
    """Raises `DataFault` for pixels or truth that cannot be had or decoded any more."""
    data, encoded = image_bytes(row, storage), (row["mask"] or {}).get("bytes")
    if row["axes"] != IMAGE_AXES:
        return _open_volume(data, encoded, spec)
    pixels = decode_image(data, spec.decode).pixels
    height, width = pixels.shape[:2]
    mask = None if encoded is None else decode_mask(encoded, spec.decode.max_pixels)
    if mask is not None and mask.shape != (height, width):
        raise LabelError(f"the mask is {mask.shape[0]}x{mask.shape[1]}, the image {height}x{width} (height x width)")
    if mask is None and row["instances"] is not None:
        objects = [
            Instance(one["category_id"], tuple(one["bbox"]), one["area"], bytes(one["counts"]), one["iscrowd"]) for one in row["instances"]
        ]
        return Opened(data, pixels, paint(objects, height, width, ignore_index=spec.ignore_index), None)
    return Opened(data, pixels, mask, mask)


def _open_volume(data: bytes, encoded: bytes | None, spec: DatasetSpec) -> Opened:
    voxels = np.ascontiguousarray(decode_volume(data, spec.decode.max_pixels)[0])
    digest = sha256(f"{voxels.shape}{voxels.dtype}:".encode())
    digest.update(voxels.data)
    pixels, shown = middle_slice(data, encoded, spec)
    mask = None if encoded is None else decode_volume(encoded, spec.decode.max_pixels)[0]
    return Opened(data, pixels, shown, mask, digest.digest())


def measure(row: Mapping[str, Any], spec: DatasetSpec, storage: StorageOptions | None) -> dict[str, Any]:
    """What a row of samples becomes; raises as `open_row` does."""
    opened = open_row(row, spec, storage)
    height, width = opened.pixels.shape[:2]
    instances = row["instances"]
    objects: InstanceFacts | None = None
    if instances is not None:
        objects = instance_facts(instances, height, width, spec.names, opened.mask, spec.ignore_index)
    truth = opened.shown if opened.mask is None else opened.mask
    counts, ignored = class_pixels(truth, spec) if spec.classes and truth is not None else (None, None)
    facts = pixel_facts(opened.pixels)
    return {
        "width": width,
        "height": height,
        "stored": storage_traits({pair["key"]: pair["value"] for pair in row["meta"] or ()}),
        "file_sha256": sha256(opened.data).digest(),
        "pixels_sha256": opened.sha256 or facts.sha256,
        "phash": facts.phash,
        "mean": facts.mean,
        "std": facts.std,
        "class_pixels": counts,
        "ignored_pixels": ignored,
        "object_pixels": list(objects.pixels) if objects else None,
        "faults": [asdict(fault) for fault in objects.faults] if objects else None,
    }
