"""Rasters through the store: opened by range, cut into windows, and brought to 8 bits (or one band of 16).

GDAL must never see an exception of the store's (it goes on with the interpreter in a bad state): one is noted, GDAL is given an end of
file, and the note is raised when GDAL has returned.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.image import encode_png
from segtasks.codecs.png import write_grey16
from segtasks.errors import DecodeError, LimitError, MissingExtra
from segtasks.readers._listing import suffix
from segtasks.readers._ranges import Ranges
from segtasks.storage import Store

# by suffix, otherwise GTiff: never VRT and its like, which name other files and servers to read from
_DRIVERS = {".jp2": "JP2OpenJPEG", ".j2k": "JP2OpenJPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF"}
_gdals_folder = re.compile(r"/vsi\w+_[0-9a-f]{32}/")  # another one each time
_ahead_bytes = 256 << 10  # a tile or some
_sample_side, _sample_blocks = 256, 64
_most_pixels_a_byte = 1 << 20  # a file without any data has an index: 8 bytes a block
_farthest = 1e15  # what stands in a transform, and in its inverse
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def rasterio() -> Any:
    """The package, imported when it is first needed."""
    try:
        import rasterio as package
        import rasterio.crs
        import rasterio.features
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        raise MissingExtra(f"reading GeoTIFF needs rasterio ({error}): pip install 'segtasks[geo]'") from error
    return package


def sidecars_of(path: str) -> tuple[str, ...]:
    """Files beside a raster that belong to it, where they are there: statistics and CRS, mask, overviews, world file."""
    stem = posixpath.splitext(path)[0]
    return f"{path}.aux.xml", f"{path}.msk", f"{path}.ovr", f"{stem}.tfw", f"{stem}.wld", f"{stem}.prj"


def faults() -> tuple[type[Exception], ...]:
    """What rasterio raises for files that are not sound; a few of GDAL's errors it lets through as they are."""
    from rasterio._err import CPLE_BaseError

    return rasterio().errors.RasterioError, rasterio().errors.CRSError, CPLE_BaseError, UnicodeDecodeError


@contextmanager
def open_raster(source: Store, path: str, max_pixels: int, sidecars: Collection[str] = ()) -> Iterator[Any]:
    """A rasterio dataset. `DecodeError` where it is none, then or while it is read; the store's errors as they are.

    `LimitError` for a header that claims more than the file can hold, or blocks that unpack to more bytes than RGB of `max_pixels`.
    """
    package = rasterio()
    caught: list[Exception] = []
    size = 0

    def opener(name: str, mode: str = "rb") -> io.RawIOBase:
        nonlocal size
        if name != path and name not in sidecars:
            raise FileNotFoundError(name)
        try:
            file = Ranges(source, name, _ahead_bytes) if "://" in source.url else source.open(name)
            if name == path:
                size = file.seek(0, io.SEEK_END)
                file.seek(0)
            return _File(file, caught)
        except Exception as error:
            if name == path or not isinstance(error, FileNotFoundError):
                caught.append(error)
            raise FileNotFoundError(name) from error

    driver = _DRIVERS.get(suffix(path), "GTiff")
    try:
        with package.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"), package.open(path, driver=driver, opener=opener) as raster:
            _check_header(raster, path, size, max_pixels)
            yield raster
    except Exception as error:
        if caught:  # whatever was concluded from bytes that did not come
            raise caught[0] from error
        if not isinstance(error, faults()):
            raise
        text = _gdals_folder.sub("", " ".join(str(error.__cause__ or error).split()))[:200]
        raise DecodeError(f"{path} cannot be read as a raster: {text}") from error
    if caught:
        raise caught[0]


def _check_header(raster: Any, path: str, size: int, max_pixels: int) -> None:
    """Before GDAL makes room for a block: it unpacks the whole of one for any pixel in it."""
    if raster.height * raster.width > size * _most_pixels_a_byte:
        raise LimitError(f"{path} claims {raster.height}x{raster.width} pixels, and has {size} bytes: cut off, or a bomb")
    height, width = raster.block_shapes[0]
    bands = raster.count if raster.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL" else 1
    unpacked = height * width * bands * np.dtype(_dtype(raster.dtypes[0])).itemsize
    if unpacked > 3 * max_pixels:
        raise LimitError(
            f"{path} has blocks of {height}x{width} pixels, {unpacked} bytes; decode.max_pixels allows {3 * max_pixels}: "
            "store it in tiles (gdal_translate -co TILED=YES)"
        )


def _dtype(name: str) -> str:
    return name if name != "complex_int16" else "complex64"


class _File(io.RawIOBase):
    """What GDAL reads from; it never raises."""

    def __init__(self, file: IO[bytes] | Ranges, caught: list[Exception]) -> None:
        self._file, self._caught = file, caught

    def read(self, size: int | None = -1) -> bytes:
        try:
            return self._file.read(-1 if size is None else size)
        except Exception as error:  # noqa: BLE001 - raised by `open_raster`
            self._caught.append(error)
            return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def boxes(height: int, width: int, size: tuple[int, int], overlap: int) -> Iterator[Box]:
    """Windows row by row; those at the lower and right edge are smaller, so that with no overlap each pixel is in one."""
    for top in _starts(height, size[0], overlap):
        for left in _starts(width, size[1], overlap):
            yield top, left, min(size[0], height - top), min(size[1], width - left)


def spread(height: int, width: int, size: tuple[int, int], most: int) -> Iterator[Box]:
    """Of the boxes without overlap at most so many, evenly spread."""
    tops, lefts = _starts(height, size[0], 0), _starts(width, size[1], 0)
    total = len(tops) * len(lefts)
    for number in range(min(total, most)):
        row, column = divmod(number * total // min(total, most), len(lefts))
        yield tops[row], lefts[column], min(size[0], height - tops[row]), min(size[1], width - lefts[column])


def _starts(length: int, size: int, overlap: int) -> range:
    return range(0, max(1, length - overlap), size - overlap)


def bands_of(raster: Any, wanted: Sequence[int] | None, depth: int, path: str) -> list[int]:
    """The bands to read, one or three; `DecodeError` for those that the raster lacks, and for values that are no real numbers."""
    bands = list(wanted) if wanted else [1, 2, 3] if raster.count >= 3 and depth == 8 else [1]
    if max(bands) > raster.count:
        raise DecodeError(f"{path} has {raster.count} bands; the option bands asks for {bands}")
    kind = raster.dtypes[bands[0] - 1]
    if np.dtype(_dtype(kind)).kind not in "uif":
        raise DecodeError(f"{path} has {kind} values; needed: real numbers (of SAR take the amplitude or the decibels first)")
    return bands


def read_box(raster: Any, bands: Sequence[int], box: Box) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values of bands x height x width, and where they are data: no nodata value, not masked, not transparent, finite."""
    window = rasterio().windows.Window(box[1], box[0], box[3], box[2])
    values = raster.read(list(bands), window=window)
    valid = raster.read_masks(list(bands), window=window) != 0
    return values, valid & np.isfinite(values) if values.dtype.kind == "f" else valid


def percentiles(raster: Any, bands: Sequence[int], wanted: tuple[float, float]) -> list[tuple[float, float]]:
    """Of each band's data: all of a raster up to 2048x2048 pixels, 64 evenly spread blocks of 256x256 of a larger one."""
    seen: list[list[NDArray[Any]]] = [[] for _ in bands]
    for box in spread(raster.height, raster.width, (_sample_side, _sample_side), _sample_blocks):
        values, valid = read_box(raster, bands, box)
        for band in range(len(bands)):
            seen[band].append(values[band][valid[band]])
    found = []
    for parts in seen:
        data = np.concatenate(parts)
        low, high = np.percentile(data.astype(np.float64), wanted) if data.size else (0.0, 1.0)
        found.append((float(low), float(high)))
    return found


def scale(values: NDArray[Any], valid: NDArray[np.bool_], limits: Sequence[tuple[float, float]] | None, depth: int) -> NDArray[Any]:
    """Bands of 0..255 (or 0..65535): linear from each band's limits, rounded, cut off; without limits as they are. No data is 0."""
    kind = np.uint8 if depth == 8 else np.uint16
    if limits is None:
        return np.where(valid, values, 0).astype(kind)
    scaled = np.zeros(values.shape, kind)
    for band, (low, high) in enumerate(limits):
        inside = np.where(valid[band], values[band], low).astype(np.float64)
        part = np.clip((inside - low) / (high - low if high > low else 1.0), 0, 1)
        scaled[band] = np.where(valid[band], np.rint(part * np.iinfo(kind).max), 0)
    return scaled


def encode(pixels: NDArray[Any]) -> bytes:
    """A PNG of one or three bands: RGB of 8 bits, or grey of 16."""
    if pixels.dtype == np.uint16:
        return write_grey16(pixels[0])
    return encode_png(np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)))


@dataclass(frozen=True)
class Place:
    """Where a window lies on the map; columns and rows are counted from its own corner."""

    crs: str  # EPSG:32616, or WKT; empty where the raster does not say
    transform: Any  # affine: column, row to x, y
    projected: bool

    def meta(self, box: Box) -> dict[str, str]:
        bounds = bounds_of_pixels(self.transform, 0, 0, box[2], box[3])
        return {"crs": self.crs, "transform": json.dumps(list(self.transform)[:6]), "bounds": json.dumps(bounds)}

    def spacing(self) -> tuple[float, ...]:
        """Of a pixel, Y before X, in the map's unit; of degrees there is none."""
        a, b, _, d, e, _ = list(self.transform)[:6]
        return (float(np.hypot(b, e)), float(np.hypot(a, d))) if self.projected else ()


def bounds_of_pixels(transform: Any, top: float, left: float, bottom: float, right: float) -> tuple[float, float, float, float]:
    """Least x and y, largest x and y of a part of the raster."""
    xs, ys = zip(*(apply(transform, column, row) for column in (left, right) for row in (top, bottom)))
    return min(xs), min(ys), max(xs), max(ys)


def apply(transform: Any, column: Any, row: Any) -> tuple[Any, Any]:
    """x and y of a point in pixels (or of arrays of them); of the inverse transform the other way round."""
    a, b, c, d, e, f = list(transform)[:6]
    return a * column + b * row + c, d * column + e * row + f


def place_of(raster: Any, box: Box, path: str) -> Place:
    """The transform is the window's. `DecodeError` for one that has no inverse, or no finite numbers."""
    affine = list(raster.transform)[:6]
    if raster.transform.is_degenerate or not all(abs(value) < _farthest for value in (*affine, *list(~raster.transform)[:6])):
        raise DecodeError(
            f"{path} has the transform {affine}, which puts its pixels nowhere; mend it, or take it away (gdal_edit -unsetgt)"
        )
    window = rasterio().windows.Window(box[1], box[0], box[3], box[2])
    crs = raster.crs
    code = crs.to_epsg() if crs else None
    name = f"EPSG:{code}" if code else crs.to_wkt() if crs else ""
    return Place(name, raster.window_transform(window), bool(crs and crs.is_projected))
