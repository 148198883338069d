"""Rows that are whole volumes: the columns that ingest makes of one, and its middle slice to be looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.image import stretch
from segtasks.codecs.volume import decode_volume, encode_volume, read_volume_header
from segtasks.errors import DecodeError, LabelError, LimitError
from segtasks.readers._base import RawSample
from segtasks.readers._labels import strange_indices
from segtasks.shards.schema import to_meta
from segtasks.spec import DatasetSpec
from segtasks.storage._store import max_object_bytes


def volume_columns(raw: RawSample, image_id: str, spec: DatasetSpec) -> dict[str, Any]:
    """Columns of a row of samples; the voxels are decoded once, so that a damaged volume is refused here."""
    header = read_volume_header(raw.image, spec.decode.max_pixels)
    array, spacing, affine = decode_volume(raw.image, spec.decode.max_pixels)
    if array.ndim != len(raw.axes):
        raise DecodeError(f"the volume has the shape {array.shape}, the reader says its axes are {raw.axes}")
    mask = None if raw.mask is None else {"bytes": _mask(raw.mask, array.shape[-3:], affine, spec), "path": f"{image_id}.mask.nii.gz"}
    size = len(raw.image) + (len(mask["bytes"]) if mask else 0)
    if size > max_object_bytes - (8 << 20):
        raise LimitError(f"the volume and its mask have {size} bytes, and a shard is one object of {max_object_bytes} at most: read slices")
    return {
        "image": {"bytes": raw.image, "path": image_id},
        "media_type": header.media_type,
        "shape": list(array.shape),
        "axes": raw.axes,
        "spacing": list(raw.spacing or spacing),
        "width": array.shape[-1],
        "height": array.shape[-2],
        "mask": mask,
        "instances": None,
        "meta": to_meta(dict(raw.meta)),
    }


def middle_slice(image: bytes, mask: bytes | None, spec: DatasetSpec) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    """The first channel of the middle axial slice stretched to 8 bits, HxWx3, and its mask HxW."""
    array = decode_volume(image, spec.decode.max_pixels)[0]
    channel: NDArray[Any] = array[0] if array.ndim == 4 else array
    middle = len(channel) // 2
    pixels = np.repeat(stretch(channel[middle])[:, :, None], 3, axis=2)
    return pixels, None if mask is None else np.ascontiguousarray(decode_volume(mask, spec.decode.max_pixels)[0][middle])


def _mask(mask: NDArray[Any], shape: tuple[int, ...], affine: NDArray[np.float64], spec: DatasetSpec) -> bytes:
    if mask.shape != shape:
        raise LabelError(f"the mask is {mask.shape}, the volume {shape} (Z, Y, X)")
    strange = strange_indices(mask, spec) if spec.classes else []
    if strange:
        raise LabelError(f"the mask holds {strange[:8]}; classes are 0..{spec.num_classes - 1} and {spec.ignore_index} means ignore")
    return encode_volume(mask, affine)
