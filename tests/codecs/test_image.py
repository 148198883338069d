from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from segtasks.codecs import image as codec
from segtasks.codecs._webp import read_webp_size
from segtasks.codecs.image import check_image, decode_image, encode_jpeg, encode_png, orient, read_header, stretch
from segtasks.errors import ConfigError, DataFault, DecodeError, LimitError, ShapeError
from segtasks.spec import DecodePolicy

POLICY = DecodePolicy()


def photo(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """Smooth colour with some noise, so that JPEG has both low and high frequencies."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (5, 7, 3)).astype(np.uint8))
    smooth = np.array(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def saved(image: Image.Image | np.ndarray, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, name, **options)
    return file.getvalue()


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its frame header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"optimize": True}, {"quality": 30}]
)
def test_jpeg_pixels_equal_pillows(options: dict[str, object]) -> None:
    for source in (photo(), photo(33, 1), photo(1, 50), np.array(Image.fromarray(photo()).convert("L"))):
        data = saved(source, "JPEG", **options)
        decoded = decode_image(data, POLICY)
        np.testing.assert_array_equal(decoded.pixels, np.array(Image.open(io.BytesIO(data)).convert("RGB")))
        assert decoded.media_type == "image/jpeg"
        assert decoded.facts == ({} if source.ndim == 3 else {"mode": "L"})
        assert decoded.pixels.flags.writeable


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_applied_and_recorded(name: str, value: int) -> None:
    data = saved(photo(), name, exif=with_orientation(value))
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    decoded = decode_image(data, POLICY)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.facts.get("exif_orientation") == (None if value == 1 else str(value))
    header = read_header(data, POLICY)
    assert (header.height, header.width, header.orientation) == (*expected.shape[:2], value)
    assert header.format == name


def test_orient_equals_pillow_for_every_value() -> None:
    pixels = photo(3, 5)
    for value in range(1, 9):
        image = Image.fromarray(pixels)
        image.getexif()[0x0112] = value
        np.testing.assert_array_equal(orient(pixels, value), np.array(ImageOps.exif_transpose(image)))


def test_orientation_in_xmp_counts_as_in_pillow() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    data = saved(photo(), "JPEG", xmp=xmp)
    assert decode_image(data, POLICY).pixels.shape == (56, 40, 3)
    assert (read_header(data, POLICY).height, read_header(data, POLICY).width) == (56, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # of Pillow
def test_unreadable_exif_and_odd_values_leave_the_image_as_it_is() -> None:
    decoded = decode_image(saved(photo(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), POLICY)
    assert decoded.pixels.shape == (40, 56, 3)
    assert decode_image(saved(photo(), "JPEG", exif=with_orientation(9)), POLICY).facts == {}


def test_a_tiny_jpeg_that_claims_65500_squared_is_refused_from_its_header_without_memory() -> None:
    bomb = claiming(saved(photo(8, 8), "JPEG"), 65500, 65500)
    assert len(bomb) < 800
    for read in (read_header, decode_image):
        with pytest.raises(LimitError, match=r"65500x65500 = 4290250000 pixels; decode.max_pixels is 268435456"):
            read(bomb, POLICY)
    program = f"""
import resource
from segtasks.codecs._webp import read_webp_size
from segtasks.codecs.image import decode_image
from segtasks.errors import DataFault
from segtasks.spec import DecodePolicy
decode_image({saved(photo(), "JPEG")!r}, DecodePolicy())
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20),) * 2)
for limit in (1 << 28, 1 << 40):
    try:
        decode_image({bomb!r}, DecodePolicy(max_pixels=limit))
    except DataFault as error:
        print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LimitError", "DecodeError"]


def test_a_size_that_the_bytes_cannot_hold_is_refused_below_the_limit_too() -> None:
    jpeg = claiming(saved(photo(8, 8), "JPEG"), 9000, 9000)
    for read in (read_header, decode_image):
        with pytest.raises(DecodeError, match=r"claims 9000x9000 pixels, but \d+ bytes hold \d+ at most"):
            read(jpeg, POLICY)
    bmp = bytearray(saved(photo(4, 4), "BMP"))
    bmp[18:26] = struct.pack("<ii", 8000, 8000)
    with pytest.raises(DecodeError, match="claims 8000x8000 pixels"):
        decode_image(bytes(bmp), POLICY)


def test_the_emptiest_images_that_encoders_make_are_plausible() -> None:
    black = np.zeros((3000, 3000, 3), np.uint8)
    for name, options in (
        ("JPEG", {"quality": 1, "optimize": True}),
        ("JPEG", {"quality": 1, "progressive": True}),
        ("PNG", {"compress_level": 9}),
    ):
        data = saved(black, name, **options)
        assert decode_image(data, POLICY).pixels.max() <= 1
    bits = saved(Image.new("1", (3000, 3000)), "PNG", compress_level=9)
    assert decode_image(bits, POLICY).pixels.max() == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_cut_jpeg_is_refused_wherever_it_is_cut(options: dict[str, object]) -> None:
    data = saved(photo(24, 24), "JPEG", **options)
    for cut in range(len(data)):
        part = data[:cut]
        try:
            with Image.open(io.BytesIO(part), formats=["JPEG"]) as image:
                image.load()
            whole = True
        except (OSError, SyntaxError):
            whole = False
        if whole:  # only the end marker is missing
            assert cut >= len(data) - 3
            np.testing.assert_array_equal(decode_image(part, POLICY).pixels, decode_image(data, POLICY).pixels)
        else:
            with pytest.raises(DataFault):
                decode_image(part, POLICY)


def test_a_damaged_jpeg_that_pillow_accepts_is_accepted_with_its_warning() -> None:
    data = saved(photo(64, 64), "JPEG")
    patched = data[: len(data) // 2] + b"\xff\xd9"
    with Image.open(io.BytesIO(patched)) as image:
        image.load()
        expected = np.array(image)
    decoded = decode_image(patched, POLICY)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert "premature end" in decoded.facts["warning"]


def test_sixteen_bit_grey_is_scaled_by_the_policy() -> None:
    values = np.array([[0, 128, 129, 257], [1000, 4095, 32896, 65535]], np.uint16)
    for data in (saved(values, "PNG"), saved(values, "TIFF"), saved(Image.fromarray(values.astype(np.int32)), "PPM")):
        full = decode_image(data, POLICY)
        assert full.pixels[:, :, 0].tolist() == [[0, 0, 1, 1], [4, 16, 128, 255]]
        assert (full.pixels == full.pixels[:, :, :1]).all()
        assert (full.facts["bit_depth"], full.facts["scaling"]) == ("16", "full_range")
        stretched = decode_image(data, DecodePolicy(sixteen_bit="min_max"))
        np.testing.assert_array_equal(stretched.pixels[:, :, 0], np.rint(values * (255 / 65535)))
        assert stretched.facts["scaling"] == "min_max"


def test_min_max_stretches_twelve_bit_data_to_the_full_range() -> None:
    values = np.array([[100, 2100, 4100]], np.uint16)
    assert decode_image(saved(values, "PNG"), DecodePolicy(sixteen_bit="min_max")).pixels[0, :, 0].tolist() == [0, 128, 255]
    assert decode_image(saved(values, "PNG"), POLICY).pixels[0, :, 0].tolist() == [0, 8, 16]


def test_floats_and_32_bit_integers_are_stretched_and_not_finite_values_are_bounded() -> None:
    floats = np.array([[-1.0, 0.0, 3.0], [np.nan, np.inf, -np.inf]], np.float32)
    decoded = decode_image(saved(floats, "TIFF"), POLICY)
    assert decoded.pixels[:, :, 0].tolist() == [[0, 64, 255], [0, 255, 0]]
    assert decoded.facts == {"mode": "F", "bit_depth": "32", "scaling": "min_max"}
    integers = np.array([[-70000, 0, 70000]], np.int32)
    assert decode_image(saved(integers, "TIFF"), POLICY).pixels[0, :, 0].tolist() == [0, 128, 255]
    assert stretch(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    assert stretch(np.full((2, 2), np.nan)).tolist() == [[0, 0], [0, 0]]


def sixteen_bit_colour(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow reads but does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)


def test_sixteen_bit_colour_is_within_one_level_and_refused_where_low_bytes_matter() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    decoded = decode_image(sixteen_bit_colour(values), POLICY)
    assert np.abs(decoded.pixels.astype(int) - np.rint(values / 257)).max() <= 1
    assert decoded.facts == {"bit_depth": "16", "scaling": "high_byte"}
    with pytest.raises(DecodeError, match="use full_range"):
        decode_image(sixteen_bit_colour(values), DecodePolicy(sixteen_bit="min_max"))


def test_alpha_is_dropped_and_recorded_where_it_was_used() -> None:
    pixels = photo(4, 4)
    opaque = np.dstack([pixels, np.full((4, 4), 255, np.uint8)])
    used = opaque.copy()
    used[0, 0, 3] = 0
    for name in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(saved(used, name), POLICY).pixels, pixels)
        assert decode_image(saved(used, name), POLICY).facts == {"mode": "RGBA", "alpha": "ignored"}
        assert decode_image(saved(opaque, name), POLICY).facts == {"mode": "RGBA"}
    grey_alpha = Image.fromarray(np.array([[[9, 0], [200, 255]]], np.uint8))
    assert decode_image(saved(grey_alpha, "PNG"), POLICY).pixels.tolist() == [[[9] * 3, [200] * 3]]


def test_palettes_bits_and_cmyk_become_rgb() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    palette.putpalette([1, 2, 3, 40, 50, 60, 255, 0, 9])
    for name in ("PNG", "GIF", "BMP", "TIFF"):
        assert decode_image(saved(palette, name), POLICY).pixels.tolist() == [[[1, 2, 3], [40, 50, 60], [255, 0, 9]]]
    transparent = decode_image(saved(palette, "PNG", transparency=1), POLICY)
    assert transparent.pixels.tolist() == [[[1, 2, 3], [40, 50, 60], [255, 0, 9]]]
    assert transparent.facts == {"mode": "P", "alpha": "ignored"}
    bits = Image.fromarray(np.array([[True, False]]))
    assert decode_image(saved(bits, "PNG"), POLICY).pixels.tolist() == [[[255] * 3, [0] * 3]]
    data = saved(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95)
    decoded = decode_image(data, POLICY)
    np.testing.assert_array_equal(decoded.pixels, np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    assert decoded.facts == {"mode": "CMYK"}


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_taken_and_recorded(name: str) -> None:
    first = Image.new("RGB", (8, 6), (200, 30, 60))
    options = {"lossless": True} if name == "WEBP" else {}
    data = saved(first, name, save_all=True, append_images=[Image.new("RGB", (8, 6), (0, 0, 255))], **options)
    decoded = decode_image(data, POLICY)
    assert decoded.pixels[0, 0].tolist() == [200, 30, 60]
    assert decoded.facts["frames"] == "first of several"


def test_a_format_outside_the_allow_list_is_named() -> None:
    data = saved(photo(), "ICO")
    with pytest.raises(DecodeError, match=r"not an image of an allowed format \(JPEG, .*\): it looks like ICO"):
        decode_image(data, POLICY)
    with pytest.raises(DecodeError, match=r"allowed format \(PNG\): it looks like JPEG"):
        decode_image(saved(photo(), "JPEG"), DecodePolicy(formats=("PNG",)))
    with pytest.raises(DecodeError, match=r"allowed format \(JPEG\): it looks like PNG"):
        decode_image(encode_png(photo()), DecodePolicy(formats=("JPEG",)))
    with pytest.raises(DecodeError, match="the file is empty"):
        decode_image(b"", POLICY)


def test_a_format_that_pillow_does_not_know_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match=r"names 'JPG', which Pillow does not read. Did you mean 'JPEG'"):
        decode_image(b"x", DecodePolicy(formats=("JPG",)))


def test_the_policys_limit_counts_and_not_pillows_process_wide_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for name in ("JPEG", "PNG", "BMP", "PPM", "JPEG2000"):
        assert decode_image(saved(photo(), name), POLICY).pixels.shape == (40, 56, 3)
        with pytest.raises(LimitError, match=r"56x40 = 2240 pixels; decode.max_pixels is 2239"):
            decode_image(saved(photo(), name), DecodePolicy(max_pixels=2239))
    for name in ("TIFF", "WEBP"):  # these plug-ins ask again while loading
        with pytest.raises(LimitError, match="exceeds limit of 20 pixels"):
            decode_image(saved(photo(), name), POLICY)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": with_orientation(3)}])
def test_the_size_of_a_webp_is_known_before_its_canvas_is_made(options: dict[str, object]) -> None:
    data = saved(photo(), "WEBP", **options)
    assert read_webp_size(data) == (56, 40)
    with pytest.raises(LimitError, match=r"56x40 = 2240 pixels"):
        decode_image(data, DecodePolicy(max_pixels=2239))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM", "JPEG2000"])
def test_damaged_bytes_end_in_pixels_or_in_a_data_fault(name: str) -> None:
    data = saved(photo(), name)
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        broken = bytearray(data[: random.integers(1, len(data))] if random.random() < 0.3 else data)
        for at in random.integers(0, len(broken), random.integers(1, 6)):
            broken[at] = random.integers(0, 256)
        try:
            decoded = decode_image(bytes(broken), POLICY)
            assert decoded.pixels.ndim == 3
            assert decoded.pixels.dtype == np.uint8
        except DataFault:
            refused += 1
        try:
            read_header(bytes(broken), POLICY)
        except DataFault:
            continue
    assert refused > 0


def verdict(look: Callable[[bytes, DecodePolicy], object], data: bytes) -> object:
    try:
        found = look(data, POLICY)
    except DataFault as fault:
        return type(fault), str(fault)
    return found.width, found.height, found.media_type, found.facts


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"progressive": True},
        {"quality": 30, "optimize": True},
        {"exif": with_orientation(6)},
        {"restart_marker_blocks": 2},
    ],
    ids=str,
)
def test_an_image_is_checked_with_the_verdict_that_decoding_has(options: dict[str, object]) -> None:
    """Cut anywhere, and with bytes changed anywhere: colour is not made, but read as it is by the decoder."""
    whole = saved(photo(), "JPEG", **options)
    random = np.random.default_rng(0)
    cases = [whole, saved(photo()[:, :, 0], "JPEG"), saved(photo(), "PNG"), *(whole[:end] for end in range(2, len(whole), 23))]
    for _ in range(300):
        data = bytearray(whole)
        for at in random.integers(2, len(data), random.integers(1, 4)):
            data[at] = random.integers(256)
        cases.append(bytes(data))
    verdicts = [(verdict(check_image, data), verdict(decode_image, data)) for data in cases]
    assert [checked for checked, _ in verdicts] == [decoded for _, decoded in verdicts]
    assert len({isinstance(checked[0], int) for checked, _ in verdicts}) == 2


def test_a_lack_of_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(codec, "_to_rgb", exhausted)
    with pytest.raises(MemoryError):
        decode_image(saved(photo(), "BMP"), POLICY)


def test_png_is_lossless_and_jpeg_close() -> None:
    pixels = photo(37, 41)
    data = encode_png(pixels)
    np.testing.assert_array_equal(decode_image(data, POLICY).pixels, pixels)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), pixels)
    assert read_header(data, POLICY).media_type == "image/png"
    lossy = encode_jpeg(pixels)
    assert np.abs(decode_image(lossy, POLICY).pixels.astype(int) - pixels).mean() < 4
    assert len(encode_jpeg(pixels, quality=50)) < len(lossy)
    with pytest.raises(ShapeError, match="needed: uint8 of height x width x 3"):
        encode_png(pixels[:, :, 0])
    with pytest.raises(ShapeError):
        encode_jpeg(pixels.astype(np.float32))
