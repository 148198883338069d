from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from segtasks.codecs.mask import decode_label, decode_mask, encode_mask
from segtasks.errors import DataFault, DecodeError, LimitError, ShapeError

PALETTE = [(index, 0, 255 - index) for index in range(256)]
NO_LIMIT = 1 << 28


def saved(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def grey_png(values: list[list[int]], depth: int) -> bytes:
    """Grey of 1, 2 or 4 bits, which Pillow cannot write; one byte a row, so at most 8 / depth values."""
    rows = b"".join(bytes([0, sum(value << (8 - depth * (at + 1)) for at, value in enumerate(row))]) for row in values)
    header = struct.pack(">IIBBBBB", len(values[0]), len(values), depth, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)


@settings(max_examples=60, deadline=None)
@given(st_numpy.arrays(st.sampled_from([np.uint8, np.uint16]), st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_a_mask_comes_back_equal_here_and_in_pillow(mask: np.ndarray) -> None:
    data = encode_mask(mask, PALETTE)
    back = decode_mask(data, NO_LIMIT)
    assert back.dtype == mask.dtype
    np.testing.assert_array_equal(back, mask)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), mask)


def test_masks_written_by_pillow_give_their_indices() -> None:
    mask = np.array([[0, 1, 2], [11, 255, 7]], np.uint8)
    palette = Image.fromarray(mask)
    palette.putpalette([channel for color in PALETTE for channel in color])
    for data in (saved(palette), saved(Image.fromarray(mask)), saved(palette, optimize=True)):
        np.testing.assert_array_equal(decode_mask(data, NO_LIMIT), mask)


def test_palette_masks_of_four_bits_give_their_indices() -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 3, 15]], np.uint8))
    image.putpalette(list(range(48)))
    data = saved(image, bits=4)
    assert data[24] == 4
    assert decode_mask(data, NO_LIMIT).tolist() == [[0, 1, 2, 3, 15]]


@pytest.mark.parametrize(("depth", "values"), [(1, [[0, 1, 1, 0]]), (2, [[0, 1, 2, 3], [3, 2, 1, 0]]), (4, [[0, 1], [7, 15]])])
def test_grey_of_few_bits_gives_stored_values_not_those_scaled_for_display(depth: int, values: list[list[int]]) -> None:
    assert decode_label(grey_png(values, depth), NO_LIMIT).tolist() == values


def test_labels_of_other_kinds_are_read_as_stored() -> None:
    colours = np.array([[[128, 0, 0], [0, 128, 0]]], np.uint8)
    np.testing.assert_array_equal(decode_label(saved(Image.fromarray(colours)), NO_LIMIT), colours)
    with_alpha = np.dstack([colours, np.full((1, 2), 9, np.uint8)])
    np.testing.assert_array_equal(decode_label(saved(Image.fromarray(with_alpha)), NO_LIMIT), colours)
    grey_alpha = Image.fromarray(np.array([[[5, 255], [6, 0]]], np.uint8))
    assert grey_alpha.mode == "LA"
    assert decode_label(saved(grey_alpha), NO_LIMIT).tolist() == [[5, 6]]
    ids = np.array([[0, 26001]], np.uint16)
    for name in ("PNG", "TIFF"):
        assert decode_label(saved(Image.fromarray(ids), name), NO_LIMIT).tolist() == [[0, 26001]]
    floats = np.array([[0.0, 3.0]], np.float32)
    assert decode_label(saved(Image.fromarray(floats), "TIFF"), NO_LIMIT).tolist() == [[0.0, 3.0]]
    for name in ("BMP", "GIF"):
        palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
        palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        assert decode_label(saved(palette, name), NO_LIMIT).tolist() == [[0, 1, 2]]


def test_lossy_labels_are_refused() -> None:
    with pytest.raises(DecodeError, match=r"allowed format \(PNG, TIFF, BMP, GIF\): it looks like JPEG"):
        decode_label(saved(Image.new("L", (8, 8)), "JPEG"), NO_LIMIT)


def test_a_stored_mask_has_one_channel() -> None:
    with pytest.raises(DecodeError, match="needed: class indices of one channel"):
        decode_mask(saved(Image.new("RGB", (2, 2))), NO_LIMIT)
    with pytest.raises(ShapeError, match="mask is int64"):
        encode_mask(np.zeros((2, 2), np.int64), PALETTE)


def test_masks_above_the_limit_are_refused_from_their_header() -> None:
    data = encode_mask(np.zeros((10, 10), np.uint8), PALETTE)
    with pytest.raises(LimitError, match="10x10 = 100 pixels; the limit is 99"):
        decode_mask(data, 99)


def test_a_damaged_mask_is_never_another_mask() -> None:
    mask = np.random.default_rng(0).integers(0, 5, (20, 20)).astype(np.uint8)
    data = encode_mask(mask, PALETTE)
    pixels_end = data.index(b"IEND") - 8
    for at in range(pixels_end - 5):  # Pillow reads on without zlib's checksum and what comes after it
        with pytest.raises(DataFault):
            decode_mask(data[:at], NO_LIMIT)
    for at in range(pixels_end - 5, len(data)):
        np.testing.assert_array_equal(decode_mask(data[:at], NO_LIMIT), mask)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        try:
            found = decode_mask(bytes(broken), NO_LIMIT)
        except DataFault:
            continue
        assert not data.index(b"IDAT") <= at < pixels_end
        np.testing.assert_array_equal(found, mask)


def test_pillow_alone_would_return_another_mask() -> None:
    mask = np.random.default_rng(0).integers(0, 5, (20, 20)).astype(np.uint8)
    data = encode_mask(mask, PALETTE)
    accepted = 0
    for at in range(data.index(b"IDAT") + 6, data.index(b"IEND") - 8):
        broken = bytearray(data)
        broken[at] ^= 0x10
        try:
            accepted += not np.array_equal(np.array(Image.open(io.BytesIO(broken))), mask)
        except OSError:
            continue
    assert accepted > 0
