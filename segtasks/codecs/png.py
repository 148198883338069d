"""PNGs of three shapes, written and read several times faster than libpng: 8-bit palette (masks), 16-bit grey, 8-bit RGB.

Every row of a mask has filter 0, every row of an RGB image filter 2 (Up): these undo at NumPy's speed, others do not.
Format: W3C PNG (third edition). `read_plain` reads what is written here; anything else is Pillow's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from segtasks.errors import DecodeError, ShapeError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3
_NONE, _UP = 0, 2
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}
_LEVEL = 1  # levels 0 to 3: 1 is as fast as 0 and 20% smaller on masks; 3 is five times slower and larger


@dataclass(frozen=True)
class PngHeader:
    """The IHDR chunk."""

    width: int
    height: int
    depth: int  # bits a sample
    color_type: int
    interlaced: bool

    def max_pixels_in(self, size: int) -> int:
        """The most pixels that `size` bytes can hold: deflate shrinks at most 1032 to 1."""
        return size * 1032 * 8 // max(1, self.depth * _CHANNELS.get(self.color_type, 1))


def read_png_header(data: bytes) -> PngHeader | None:
    """None where the file does not start as a PNG does."""
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, depth, color_type, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    return PngHeader(width, height, depth, color_type, interlace != 0)


def write_palette(indices: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode indices HxW with as many palette entries as the largest index needs; missing entries are black."""
    height, width = _sides(indices, 2)
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = _NONE
    rows[:, 1:] = indices
    entries = int(indices.max()) + 1
    return _write(width, height, 8, PALETTE, rows, _palette_chunk(tuple(palette), entries))


@lru_cache
def _palette_chunk(palette: tuple[tuple[int, int, int], ...], entries: int) -> bytes:
    colors = bytes(channel for color in palette[:entries] for channel in color).ljust(3 * entries, b"\0")
    return _chunk(b"PLTE", colors)


def write_grey16(values: NDArray[np.uint16]) -> bytes:
    """Encode values HxW as 16-bit grey."""
    height, width = _sides(values, 2)
    rows = np.empty((height, 1 + 2 * width), np.uint8)
    rows[:, 0] = _NONE
    rows[:, 1:] = np.ascontiguousarray(values, dtype=">u2").view(np.uint8)
    return _write(width, height, 16, GREY, rows)


def write_rgb(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels HxWx3 without loss."""
    height, width = _sides(pixels, 3)
    flat = pixels.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    return _write(width, height, 8, RGB, rows)


def read_plain(data: bytes, max_pixels: int) -> NDArray[Any] | None:
    """Decode a PNG of a shape written here: uint8 HxW (palette), uint16 HxW (grey) or uint8 HxWx3.

    None for any other file and for one that is cut off, of which Pillow then says what is wrong. But a wrong checksum of
    pixel data is a `DecodeError` for every PNG: Pillow does not look at it and returns other pixels.
    """
    header = read_png_header(data)
    if header is None:
        return None
    compressed = _only_image_data(data)
    bytes_a_pixel = {(PALETTE, 8): 1, (GREY, 16): 2, (RGB, 8): 3}.get((header.color_type, header.depth))
    pixels_claimed = header.width * header.height
    if compressed is None or bytes_a_pixel is None or header.interlaced:
        return None
    if not 0 < pixels_claimed <= min(max_pixels, header.max_pixels_in(len(data))):
        return None
    height, row_bytes = header.height, 1 + header.width * bytes_a_pixel
    wanted_filter = _UP if header.color_type == RGB else _NONE
    if header.color_type == RGB and _first_byte(compressed) != _UP:  # another writer's: do not inflate it for nothing
        return None
    flat = _inflate(compressed, height * row_bytes)
    if flat is None:
        return None
    rows = np.frombuffer(flat, np.uint8).reshape(height, row_bytes)
    if (rows[:, 0] != wanted_filter).any():
        return None
    if header.color_type == PALETTE:
        return rows[:, 1:].copy()
    if header.color_type == GREY:
        return np.ascontiguousarray(rows[:, 1:]).view(">u2").astype(np.uint16)
    pixels = rows[:, 1:].copy()
    for row in range(1, height):  # accumulate along a strided axis is ten times slower
        np.add(pixels[row - 1], pixels[row], out=pixels[row])
    return pixels.reshape(height, header.width, 3)


def _sides(array: NDArray[Any], dimensions: int) -> tuple[int, int]:
    if array.ndim != dimensions or array.size == 0 or (dimensions == 3 and array.shape[2] != 3):
        needed = "height x width" if dimensions == 2 else "height x width x 3"
        raise ShapeError(f"the array has shape {array.shape}; needed: {needed}, none of them 0")
    return array.shape[0], array.shape[1]


def _write(width: int, height: int, depth: int, color_type: int, rows: NDArray[np.uint8], before_data: bytes = b"") -> bytes:
    ihdr = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = isal_zlib.compress(rows, _LEVEL)
    return b"".join((SIGNATURE, _chunk(b"IHDR", ihdr), before_data, _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", isal_zlib.crc32(body, isal_zlib.crc32(kind)))))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each whole chunk, pixel data with their checksum proven; an empty kind where the file breaks off."""
    view, at = memoryview(data), len(SIGNATURE)
    while at < len(data):
        length = int.from_bytes(view[at : at + 4], "big")
        kind, stop = bytes(view[at + 4 : at + 8]), at + 8 + length
        if stop + 4 > len(data):
            yield b"", view[:0]
            return
        if isal_zlib.crc32(view[at + 4 : stop]) != int.from_bytes(view[stop : stop + 4], "big"):
            if kind == b"IDAT":
                raise DecodeError("PNG: pixel data do not have their checksum: the file is damaged")
            yield b"", view[:0]
            return
        yield kind, view[at + 8 : stop]
        at = stop + 4


def _only_image_data(data: bytes) -> bytes | memoryview | None:
    """The compressed pixels of a file of IHDR, PLTE, IDAT and IEND and nothing else."""
    chunks = list(_chunks(data))
    kinds = [kind for kind, _ in chunks]
    parts = [body for kind, body in chunks if kind == b"IDAT"]
    before = 2 if kinds[1:2] == [b"PLTE"] else 1
    if not parts or kinds[before:] != [b"IDAT"] * len(parts) + [b"IEND"]:
        return None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _first_byte(compressed: bytes | memoryview) -> int | None:
    try:
        start = isal_zlib.decompressobj().decompress(compressed[:1024], 1)
    except IsalError:  # type: ignore[misc]  # its stub lacks the word class
        return None
    return start[0] if start else None


def _inflate(compressed: bytes | memoryview, size: int) -> bytes | None:
    """The stream's bytes where there are exactly `size` of them."""
    stream = isal_zlib.decompressobj()
    try:
        flat: bytes = stream.decompress(compressed, size + 1)
    except IsalError:  # type: ignore[misc]  # its stub lacks the word class
        return None
    return flat if stream.eof and len(flat) == size else None
