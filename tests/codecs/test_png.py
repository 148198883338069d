from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from segtasks.codecs.image import decode_image, encode_png, read_header
from segtasks.codecs.mask import decode_label, decode_mask, encode_mask, read_palette
from segtasks.codecs.png import read_plain, read_png_header, write_grey16, write_palette, write_rgb
from segtasks.errors import DecodeError, LimitError, ShapeError
from segtasks.spec import DecodePolicy

PALETTE = [(index, 255 - index, index // 2) for index in range(256)]
SHAPES = [(1, 1), (1, 7), (9, 1), (3, 5), (64, 33), (360, 480)]
NO_LIMIT = 1 << 30


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, color_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by zlib alone; `rows` has the filter bytes in it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", SHAPES)
def test_pillow_reads_a_palette_mask_as_the_same_indices_and_colours(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    image = Image.open(io.BytesIO(write_palette(mask, PALETTE)))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.array(image), mask)
    np.testing.assert_array_equal(np.array(image.convert("RGB")), np.array(PALETTE, np.uint8)[mask])


@pytest.mark.parametrize("shape", SHAPES)
def test_pillow_reads_grey16_and_rgb_as_the_same_values(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    values = random.integers(0, 65536, shape).astype(np.uint16)
    pixels = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
    grey = Image.open(io.BytesIO(write_grey16(values)))
    assert grey.mode == "I;16"
    np.testing.assert_array_equal(np.array(grey), values)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(write_rgb(pixels)))), pixels)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_is_read_back_by_the_fast_path(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    mask = random.integers(0, 4, shape).astype(np.uint8)
    values = random.integers(0, 65536, shape).astype(np.uint16)
    pixels = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
    for array, data in ((mask, write_palette(mask, PALETTE)), (values, write_grey16(values)), (pixels, write_rgb(pixels))):
        back = read_plain(data, NO_LIMIT)
        assert back is not None
        assert back.dtype == array.dtype
        assert back.flags.writeable
        assert back.flags.c_contiguous
        np.testing.assert_array_equal(back, array)


def test_the_palette_has_only_the_entries_that_the_mask_reaches() -> None:
    few = write_palette(np.array([[0, 10]], np.uint8), PALETTE)
    all_of_them = write_palette(np.array([[0, 255]], np.uint8), PALETTE)
    assert len(Image.open(io.BytesIO(few)).getpalette() or []) == 3 * 11
    assert len(all_of_them) - len(few) >= 3 * (256 - 11) - 8


def test_indices_beyond_the_palette_are_kept_and_black() -> None:
    image = Image.open(io.BytesIO(write_palette(np.array([[0, 9]], np.uint8), [(1, 2, 3)])))
    assert np.array(image).tolist() == [[0, 9]]
    assert np.array(image.convert("RGB")).tolist() == [[[1, 2, 3], [0, 0, 0]]]


def test_the_fast_path_leaves_other_peoples_files_to_pillow() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    by_pillow = io.BytesIO()
    Image.fromarray(pixels).save(by_pillow, "PNG")
    assert read_plain(by_pillow.getvalue(), NO_LIMIT) is None  # its first row is filtered by Sub or Paeth
    unfiltered = png(2, 1, 8, 3, b"\0\1\2", chunk(b"PLTE", bytes(9)))
    assert read_plain(unfiltered, NO_LIMIT) is not None
    assert read_plain(png(2, 1, 8, 3, b"\1\1\2", chunk(b"PLTE", bytes(9))), NO_LIMIT) is None  # filter Sub
    assert read_plain(png(2, 1, 8, 3, b"\0\1\2", chunk(b"PLTE", bytes(9)) + chunk(b"tRNS", b"\0")), NO_LIMIT) is None
    assert read_plain(png(2, 1, 8, 3, b"\0\1\2\3", chunk(b"PLTE", bytes(9))), NO_LIMIT) is None  # a byte too many
    assert read_plain(png(2, 2, 8, 3, b"\0\1\2", chunk(b"PLTE", bytes(9))), NO_LIMIT) is None  # a row too few
    assert read_plain(unfiltered, 1) is None  # above the limit


def test_every_cut_and_every_flipped_byte_keeps_a_file_off_the_fast_path() -> None:
    mask = np.arange(30, dtype=np.uint8).reshape(5, 6)
    data = write_palette(mask, PALETTE)
    start = data.index(b"IDAT")
    stop = data.index(b"IEND") - 4
    for at in range(len(data)):
        assert read_plain(data[:at], NO_LIMIT) is None
        broken = bytearray(data)
        broken[at] ^= 0xFF
        if start + 4 <= at < stop:
            with pytest.raises(DecodeError, match="do not have their checksum"):
                read_plain(bytes(broken), NO_LIMIT)
        else:
            assert read_plain(bytes(broken), NO_LIMIT) is None, at


def test_a_header_that_claims_more_than_deflate_can_hold_is_not_believed() -> None:
    header = read_png_header(png(60000, 60000, 8, 2, b"\0"))
    assert header is not None
    assert header.max_pixels_in(100) == 100 * 1032 // 3
    zeros = png(4000, 4000, 1, 0, bytes(501 * 4000))  # the best that zlib does stays below the bound
    believed = read_png_header(zeros)
    assert believed is not None
    assert believed.max_pixels_in(len(zeros)) >= 16_000_000


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5,), (2, 3, 4)])
def test_arrays_that_are_no_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="needed: height x width"):
        write_palette(np.zeros(shape, np.uint8), PALETTE)
    with pytest.raises(ShapeError, match="needed: height x width x 3"):
        write_rgb(np.zeros(shape, np.uint8))


kinds = st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.bool_])
arrays = st_numpy.arrays(kinds, st_numpy.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=12))
arrays |= st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
palettes = st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=256)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(arrays, palettes)
def test_any_array_is_written_so_that_pillow_and_the_fast_path_read_it_or_refused(array: np.ndarray, palette: list) -> None:
    write = encode_png if array.ndim == 3 else lambda mask: encode_mask(mask, palette)
    try:
        data = write(array)
    except ShapeError:
        is_mask = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
        is_image = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
        assert array.size == 0 or not (is_mask or is_image)
        return
    image = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.array(image), array)
    np.testing.assert_array_equal(read_plain(data, NO_LIMIT), array)
    if image.mode == "P":
        colors = np.array([*palette, *[(0, 0, 0)] * 256], np.uint8)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), colors[array])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """PNGs whose checksums are right, of headers, chunks and pixel data that need not belong together; some with other bytes in them."""
    header = (draw(sizes), draw(sizes), draw(depths), draw(color_types), draw(st.integers(0, 1)), 0, draw(st.integers(0, 1)))
    rows = b"".join(draw(st.lists(st.sampled_from([0, 0, 2, 4, 9]).map(lambda kind: bytes([kind])) | st.binary(max_size=12), max_size=8)))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *header))]
    others = st.sampled_from([b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"zTXt"])
    parts += [chunk(kind, draw(st.binary(max_size=9))) for kind in draw(st.lists(others, max_size=2))]
    packed = zlib.compress(rows)
    cut = draw(st.integers(0, len(packed)))
    parts += [chunk(b"IDAT", part) for part in draw(st.sampled_from([[packed], [packed[:cut]], [packed[:cut], packed[cut:]], []]))]
    data = bytearray(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + (chunk(b"IEND", b"") if draw(st.booleans()) else b""))
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


sizes = st.integers(0, 4) | st.sampled_from([12, 65535, 10**6, 2**31 - 1, 2**32 - 1])
depths, color_types = st.sampled_from([1, 2, 4, 8, 8, 8, 16, 0, 255]), st.sampled_from([0, 2, 3, 4, 6, 1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Invalid APNG:UserWarning")
@settings(max_examples=600, deadline=None)
@given(files())
def test_any_png_is_read_or_refused(data: bytes) -> None:
    policy = DecodePolicy(max_pixels=1 << 20)
    for read in (
        lambda: decode_mask(data, policy.max_pixels),
        lambda: decode_label(data, policy.max_pixels),
        lambda: decode_label(data, policy.max_pixels, color=True),
        lambda: decode_image(data, policy).pixels,
    ):
        with contextlib.suppress(DecodeError, LimitError):
            assert 0 < read().size <= 3 * policy.max_pixels
    with contextlib.suppress(DecodeError, LimitError):
        read_header(data, policy)
    with contextlib.suppress(DecodeError, LimitError):
        read_palette(data, policy.max_pixels)
