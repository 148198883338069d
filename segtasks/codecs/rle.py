"""Binary masks as COCO's compressed run lengths: column-major, starting with a run of zeros, deltas in base 32.

By RLEMaskLib, whose strings equal pycocotools' byte for byte; unlike that one it refuses counts that do not add up to the
image, instead of returning memory nobody wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rlemasklib
from numpy.typing import NDArray

from segtasks.errors import LabelError, ShapeError

BBox = tuple[float, float, float, float]
_far = 1e6  # pixels from the origin: a polygon's edges are walked pixel by pixel, so that a corner at 1e300 would take for ever


@dataclass(frozen=True)
class Region:
    """The pixels of one value of a label image. `bbox` is x, y, width, height; `area` is in pixels."""

    value: int
    counts: bytes
    area: int
    bbox: BBox


def encode(mask: NDArray[np.bool_]) -> bytes:
    """Compressed counts of a boolean mask HxW."""
    if mask.ndim != 2 or mask.size == 0:
        raise ShapeError(f"mask has shape {mask.shape}; needed: height x width, neither of them 0")
    return bytes(rlemasklib.encode(np.ascontiguousarray(mask, dtype=bool))["counts"])


def encode_polygons(parts: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Compressed counts of the union of polygons, each a flat x, y, x, y, ... in pixels: the pixels that pycocotools' `frPyObjects` sets.

    Corners outside the image are taken; `LabelError` for a part of fewer than three corners, or with one that is no finite number.
    """
    drawn = []
    for part in parts:
        try:
            corners = np.asarray(part, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise LabelError(f"a polygon has the corners {str(part)[:80]}, which are no numbers") from error
        if corners.ndim != 1 or corners.size < 6 or corners.size % 2 or not np.isfinite(corners).all() or np.abs(corners).max() > _far:
            raise LabelError(
                f"a polygon has the corners {str(part)[:80]} ({corners.size} numbers); needed: x, y of at least three, in pixels"
            )
        drawn.append(rlemasklib.from_polygon(corners, imshape=(height, width)))
    if not drawn:
        return encode(np.zeros((height, width), np.bool_))
    return bytes((drawn[0] if len(drawn) == 1 else rlemasklib.union(drawn))["counts"])


def encode_runs(runs: Sequence[int], height: int, width: int) -> bytes:
    """Compressed counts from a list of run lengths (COCO's uncompressed RLE); `LabelError` where they do not make the image."""
    try:
        lengths = np.asarray(runs)
    except ValueError as error:  # lists of unequal length
        raise LabelError(f"run lengths {str(runs)[:80]} are no whole numbers") from error
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise LabelError(f"run lengths {str(runs)[:80]} do not make a mask of {height}x{width} pixels: cut off, or of another image")
    return bytes(rlemasklib.compress({"size": [height, width], "ucounts": lengths.astype(np.uint32)})["counts"])


def decode(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """The mask HxW, column-major in memory as the runs are.

    `LabelError` where the counts are malformed or cover more or fewer pixels than the image has.
    """
    try:
        mask: NDArray[np.bool_] = rlemasklib.decode(_rle(counts, height, width)).view(np.bool_)
    except ValueError as error:
        raise _bad(counts, height, width, error) from error
    return mask


def decode_box(counts: bytes, height: int, width: int, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The part of the mask inside `box` (top, left, height, width), in the image; the rest is not decoded. Errors as in `decode`."""
    top, left, box_height, box_width = box
    try:
        part = rlemasklib.crop(_rle(counts, height, width), np.array([left, top, box_width, box_height], np.uint32))
        mask: NDArray[np.bool_] = rlemasklib.decode(part).view(np.bool_)
    except ValueError as error:
        raise _bad(counts, height, width, error) from error
    return mask


def encode_at(mask: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> bytes:
    """Compressed counts of an image `height` x `width` that has `mask` at (`top`, `left`) and no other pixel set."""
    part = rlemasklib.encode(np.ascontiguousarray(mask, dtype=bool))
    margins = [left, width - left - mask.shape[1], top, height - top - mask.shape[0]]
    return bytes(rlemasklib.pad(part, np.array(margins, np.uint32))["counts"])


def union(parts: Sequence[bytes], height: int, width: int) -> bytes:
    """Compressed counts of the pixels that any of the masks has, one at least; `LabelError` as in `decode`."""
    try:
        return bytes(rlemasklib.union([_rle(counts, height, width) for counts in parts])["counts"])
    except ValueError as error:
        raise _bad(b"".join(parts), height, width, error) from error


def runs(counts: bytes, height: int, width: int) -> NDArray[np.uint32]:
    """Lengths of the runs column by column, of zeros first; `LabelError` as in `decode`."""
    try:
        lengths: NDArray[np.uint32] = rlemasklib.decompress(_rle(counts, height, width))["ucounts"]
    except ValueError as error:
        raise _bad(counts, height, width, error) from error
    if int(lengths.sum(dtype=np.int64)) != height * width:
        raise _bad(counts, height, width, ValueError("sum of run lengths does not match"))
    return lengths


def area(counts: bytes, height: int, width: int) -> int:
    """Pixels set; `LabelError` as in `decode`."""
    return int(runs(counts, height, width)[1::2].sum(dtype=np.int64))


def bbox(counts: bytes, height: int, width: int) -> BBox:
    """x, y, width, height of the smallest box around the pixels set, all 0 for an empty mask; `LabelError` as in `decode`."""
    runs(counts, height, width)
    x, y, w, h = rlemasklib.to_bbox(_rle(counts, height, width))
    return float(x), float(y), float(w), float(h)


def encode_regions(labels: NDArray[np.integer[Any]]) -> list[Region]:
    """One region for every value but 0 of a label image HxW, in order of value; one pass, however many there are."""
    if labels.ndim != 2 or labels.size == 0:
        raise ShapeError(f"label image has shape {labels.shape}; needed: height x width, neither of them 0")
    height, width = labels.shape
    columns = np.ascontiguousarray(labels.T).reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(columns[1:] != columns[:-1]) + 1))
    stops = np.append(starts[1:], columns.size)
    values = columns[starts]
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    regions = []
    for value, chosen in zip(found.tolist(), np.split(order, first[1:])):
        if value == 0:
            continue
        run_starts, run_stops = starts[chosen], stops[chosen]
        edges = np.empty(2 * chosen.size + 2, np.int64)
        edges[0], edges[1:-1:2], edges[2:-1:2], edges[-1] = 0, run_starts, run_stops, columns.size
        lengths = np.diff(edges).astype(np.uint32)
        if lengths[-1] == 0:  # the last run reaches the last pixel
            lengths = lengths[:-1]
        counts = bytes(rlemasklib.compress({"size": [height, width], "ucounts": lengths})["counts"])
        regions.append(Region(int(value), counts, int((run_stops - run_starts).sum()), _box(run_starts, run_stops, height)))
    return regions


def _box(starts: NDArray[np.int64], stops: NDArray[np.int64], height: int) -> BBox:
    left, right = int(starts[0]) // height, (int(stops[-1]) - 1) // height
    spans_columns = bool(((stops - 1) // height != starts // height).any())
    top = 0 if spans_columns else int((starts % height).min())
    bottom = height - 1 if spans_columns else int(((stops - 1) % height).max())
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _rle(counts: bytes, height: int, width: int) -> dict[str, Any]:
    return {"size": [height, width], "counts": counts}


def _bad(counts: bytes, height: int, width: int, error: ValueError) -> LabelError:
    found = f"run-length counts of {len(counts)} bytes do not make a mask of {height}x{width} pixels"
    return LabelError(f"{found} ({error}): cut off, or of another image")
