"""Label files to class indices and instances. Whatever is wrong with one of them is a `LabelError` that names the file."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.mask import decode_label
from segtasks.codecs.rle import encode_regions
from segtasks.errors import DataFault, LabelError
from segtasks.readers._base import Instance
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.transforms.histogram import value_counts

shown = 8  # values named in a message


def read_mask(source: Store, path: str, spec: DatasetSpec) -> NDArray[Any]:
    """The file's values as class indices HxW, uint8 or (from 256 classes on) uint16."""
    return to_indices(read_values(source, path, spec, color=spec.label_encoding.kind == "color"), spec, path)


def read_values(source: Store, path: str, spec: DatasetSpec, *, color: bool = False) -> NDArray[Any]:
    """The file's values as they are stored: HxW, or HxWx3 uint8 for colours (with `color` those of a palette too)."""
    return _decode(_bytes(source, path), path, spec, color=color)


def read_instances(source: Store, path: str, mask: NDArray[Any], spec: DatasetSpec) -> tuple[Instance, ...]:
    """`instances_of` a file."""
    return instances_of(read_values(source, path, spec), mask, spec, path)


def instances_of(values: NDArray[Any], mask: NDArray[Any], spec: DatasetSpec, path: str) -> tuple[Instance, ...]:
    """One instance for every value but 0 of an id image. Its class is the one that most of its pixels have in `mask`.

    An id whose pixels are all of the ignore value is left out. `LabelError` where sizes differ.
    """
    ids = to_ids(values, path)
    if ids.shape != mask.shape:
        raise LabelError(f"{path} is {_size(ids)}, its mask {_size(mask)}; needed: the same height and width")
    classes = _majority(ids, mask, spec.ignore_index)
    return tuple(
        Instance(category_id=classes[region.value], bbox=region.bbox, area=float(region.area), counts=region.counts)
        for region in encode_regions(ids)
        if region.value in classes
    )


def to_indices(values: NDArray[Any], spec: DatasetSpec, path: str) -> NDArray[Any]:
    """Map stored values (HxW) or colours (HxWx3) by the spec's label encoding; unknown ones are a `LabelError` naming them."""
    encoding = spec.label_encoding
    index_type = np.uint8 if max(spec.num_classes - 1, spec.ignore_index) < 256 else np.uint16
    if encoding.kind == "color":
        indices, strange = _look_up(pack_colors(values), encoding.table, index_type)
        if strange:
            colors = [tuple(code >> shift & 255 for shift in (16, 8, 0)) for code in strange[:shown]]
            raise LabelError(f"{path} has colours that are no class: {colors}; add them to the classes or to ignore")
        return indices
    integers = to_ids(values, path)
    if encoding.kind == "value":
        indices, strange = _look_up(integers, encoding.table, index_type)
    else:
        indices, strange = integers, strange_indices(integers, spec)
    if strange:
        needed = [value for value, _ in encoding.table] or f"0..{spec.num_classes - 1} and {spec.ignore_index} (ignored)"
        raise LabelError(f"{path} has values that are no class: {strange[:shown]}; known: {needed}")
    return indices.astype(index_type, copy=False)


def strange_indices(mask: NDArray[Any], spec: DatasetSpec) -> list[int]:
    """The values of a mask that are neither a class index nor the ignore value, ascending."""
    return strange_values(value_counts(mask), spec)


def strange_values(counts: NDArray[np.int64], spec: DatasetSpec) -> list[int]:
    """`strange_indices` by how many pixels each value has."""
    return [int(value) for value in np.flatnonzero(counts) if value >= spec.num_classes and value != spec.ignore_index]


def to_ids(values: NDArray[Any], path: str) -> NDArray[Any]:
    """Stored values as HxW of uint8 or uint16; `LabelError` for colours and for what is no whole number of 0..65535."""
    return _integers(_one_channel(values, path), path)


def pack_colors(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """HxWx3 to 0xRRGGBB."""
    wide = pixels.astype(np.uint32)
    packed: NDArray[np.uint32] = wide[:, :, 0] * np.uint32(1 << 16) + wide[:, :, 1] * np.uint32(1 << 8) + wide[:, :, 2]
    return packed


def is_grey(values: NDArray[Any]) -> bool:
    """True for one channel, and for colour whose channels are equal."""
    return values.ndim == 2 or bool((values[:, :, :1] == values).all())


def _bytes(source: Store, path: str) -> bytes:
    try:
        return source.read(path)
    except FileNotFoundError as error:
        raise LabelError(f"{path} is missing") from error


def _decode(data: bytes, path: str, spec: DatasetSpec, *, color: bool = False) -> NDArray[Any]:
    try:
        return decode_label(data, spec.decode.max_pixels, color=color)
    except DataFault as fault:
        raise LabelError(f"{path}: {fault}") from fault


def _one_channel(values: NDArray[Any], path: str) -> NDArray[Any]:
    if not is_grey(values):
        raise LabelError(f"{path} is in colour; needed: one channel of values (or classes with colours and encoding: color)")
    return values if values.ndim == 2 else values[:, :, 0]


def _integers(values: NDArray[Any], path: str) -> NDArray[Any]:
    """Float and 32-bit labels whose values are whole numbers of 0..65535 are taken; others are no labels."""
    if values.dtype in (np.uint8, np.uint16):
        return values
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.True_
    whole = finite & (values >= 0) & (values <= 65535) & (values == np.trunc(values))
    if not np.all(whole):
        raise LabelError(f"{path} has values that are no label: {np.unique(values[~whole])[:shown].tolist()}; needed: whole, 0 to 65535")
    return values.astype(np.uint16)


def _look_up(codes: NDArray[Any], table: tuple[tuple[int, int], ...], index_type: type[Any]) -> tuple[NDArray[Any], list[int]]:
    """Indices by a table of pairs, and the codes that are not in it, ascending."""
    if codes.dtype == np.uint8 and index_type is np.uint8:
        return _look_up_bytes(codes, table)
    keys, indices = np.array(sorted(table), dtype=np.int64).reshape(-1, 2).T
    at = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    unknown = keys[at] != codes
    return indices[at].astype(index_type), np.unique(codes[unknown]).tolist()


def _look_up_bytes(codes: NDArray[np.uint8], table: tuple[tuple[int, int], ...]) -> tuple[NDArray[Any], list[int]]:
    """By `bytes.translate`, a third of the time of indexing with an array of uint8 (which NumPy widens to eight bytes first)."""
    stored = codes.tobytes()
    to_index, unknown = _translation(table)
    indices = stored.translate(to_index)
    strange = sorted(set(stored) - {key for key, _ in table}) if unknown is not None and unknown in indices else []
    return np.frombuffer(indices, np.uint8).reshape(codes.shape), strange


@lru_cache
def _translation(table: tuple[tuple[int, int], ...]) -> tuple[bytes, int | None]:
    """The index of each byte, and what unknown bytes become: a value that is no index (none where each of the 256 is known)."""
    indices = {key: index for key, index in table if 0 <= key < 256}
    unknown = next(iter({*range(256)} - {*indices.values()}), None)
    return bytes(indices.get(value, unknown or 0) for value in range(256)), unknown


def _majority(ids: NDArray[Any], mask: NDArray[Any], ignore_index: int) -> dict[int, int]:
    """The most frequent class of each id but 0, the smallest of equals; ids that are ignored throughout are not in it."""
    counted = (ids != 0) & (mask != ignore_index)
    pairs, pixels = np.unique(ids[counted].astype(np.int64) << 16 | mask[counted], return_counts=True)
    order = np.lexsort((pairs, -pixels))  # most pixels first
    classes: dict[int, int] = {}
    for pair in pairs[order].tolist():
        classes.setdefault(pair >> 16, pair & 0xFFFF)
    return classes


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
