"""Image bytes to uint8 RGB pixels as displayed, and back. The header is checked before a decoder may allocate anything.

JPEG goes through libjpeg-turbo (simplejpeg) where its header is ordinary, PNGs of our own through `codecs.png`; all else,
and whatever those refuse, through Pillow, whose verdict counts. The rules, each recorded in `Decoded.facts` when applied:

- EXIF orientation is applied (`exif_orientation`); unreadable EXIF is ignored (`exif: unreadable`).
- Grey of 16 bits: divided by 257, or stretched from the image's minimum to its maximum (`bit_depth`, `scaling`).
  Colour of 16 bits: its high byte, which is within one level of division by 257; `min_max` refuses it, as the low bytes are lost.
  32-bit integers and floats have no known range and are always stretched; NaN and -inf count as the minimum, +inf as the maximum.
- Alpha is dropped, not composited, as OpenCV, torchvision and Pillow's `convert("RGB")` do (`alpha: ignored` if it was used).
- Palettes are looked up, grey is repeated, bits become 0 and 255, CMYK is converted without a colour profile (`mode`).
- Of animations and multi-page files the first frame is taken (`frames: first of several`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile

from segtasks.codecs import _pillow
from segtasks.codecs._jpeg import JpegHeader, read_jpeg_header
from segtasks.codecs._webp import read_webp_size
from segtasks.codecs.png import read_plain, read_png_header, write_rgb
from segtasks.errors import DecodeError, LimitError, ShapeError
from segtasks.spec import DecodePolicy

_MEDIA_TYPES = {"MPO": "image/jpeg"}  # several JPEGs in one file; every JPEG decoder reads the first


@dataclass(frozen=True)
class Header:
    """What the header claims. Width and height are in pixels as displayed; `orientation` is EXIF's, 1 where there is none."""

    format: str  # Pillow's name
    media_type: str
    width: int
    height: int
    orientation: int = 1


@dataclass(frozen=True)
class Decoded:
    """Pixels uint8 height x width x 3 as displayed. `facts` say what was done to other than plain 8-bit RGB."""

    pixels: NDArray[np.uint8]
    media_type: str
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


@dataclass(frozen=True)
class Checked:
    """An image that can be decoded: what `Decoded` says but for the pixels."""

    width: int
    height: int
    media_type: str
    facts: dict[str, str] = field(default_factory=dict)


def read_header(data: bytes, policy: DecodePolicy, size: int | None = None) -> Header:
    """Read the header alone. `LimitError` above `policy.max_pixels`; `DecodeError` for other formats and implausible sizes.

    `size` is that of the whole file in bytes, where `data` is only its beginning; a header that lies further on is a `DecodeError`.
    """
    size = len(data) if size is None else size
    jpeg = _plain_jpeg(data, policy, size)
    if jpeg is not None and not jpeg.metadata:
        return Header("JPEG", "image/jpeg", jpeg.width, jpeg.height)
    with _pillow.decoding("cannot read the header"):
        image = _open(data, policy, size)
        width, height = _pillow.stored_size(image)
        turned = _pillow.orientation(image) or 1 if image.format != "PNG" or "exif" in image.info else 1
        if turned in (5, 6, 7, 8):
            width, height = height, width
        return Header(str(image.format), _media_type(image), width, height, turned)


def decode_image(data: bytes, policy: DecodePolicy) -> Decoded:
    """Decode to RGB pixels as displayed, by the rules above.

    Every malformed input is a `DecodeError` or `LimitError`; only a lack of memory is raised as what it is.
    """
    jpeg = _plain_jpeg(data, policy, len(data))
    warning = ""
    if jpeg is not None and jpeg.is_ordinary:
        decoded, warning = _decode_ordinary_jpeg(data, jpeg, policy)
        if decoded is not None:
            return decoded
    if "PNG" in policy.formats:
        plain = read_plain(data, policy.max_pixels)
        if plain is not None and plain.ndim == 3:
            return Decoded(plain, "image/png")
    return _decode_with_pillow(data, policy, {"warning": warning} if warning else {})


def check_image(data: bytes, policy: DecodePolicy) -> Checked:
    """The verdict of `decode_image` for whoever needs no pixels: of an ordinary JPEG all is read, and only the brightness made."""
    jpeg = _plain_jpeg(data, policy, len(data))
    if jpeg is not None and jpeg.is_ordinary:
        decoded, _ = _decode_ordinary_jpeg(data, jpeg, policy, "GRAY")
    else:
        decoded = None
    found = decoded or decode_image(data, policy)
    return Checked(found.width, found.height, found.media_type, found.facts)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 HxWx3 without loss: eight times faster than Pillow's level 1 and 7% larger on photographs."""
    _check_rgb(pixels)
    return write_rgb(pixels)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Encode uint8 HxWx3 with full colour resolution (4:4:4); `quality` is libjpeg's, 1 to 100."""
    _check_rgb(pixels)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="444"))


def orient(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels HxW... as EXIF orientation 1 to 8 says they are displayed (Exif 3.0, tag 274)."""
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)


def _plain_jpeg(data: bytes, policy: DecodePolicy, size: int) -> JpegHeader | None:
    if "JPEG" not in policy.formats:
        return None
    jpeg = read_jpeg_header(data)
    if jpeg is not None:
        _check_pixels(jpeg.width, jpeg.height, jpeg.max_pixels_in(size), size, policy)
    return jpeg


def _check_pixels(width: int, height: int, plausible: int | None, size: int, policy: DecodePolicy) -> None:
    pixels = width * height
    if pixels > policy.max_pixels:
        found = f"the header claims {width}x{height} = {pixels} pixels"
        raise LimitError(f"{found}; decode.max_pixels is {policy.max_pixels}: raise it if the image is right")
    if plausible is not None and pixels > plausible:
        raise DecodeError(f"the header claims {width}x{height} pixels, but {size} bytes hold {plausible} at most: cut off, or a bomb")


def _open(data: bytes, policy: DecodePolicy, size: int) -> ImageFile.ImageFile:
    webp = read_webp_size(data) if "WEBP" in policy.formats else None
    if webp is not None:
        _check_pixels(*webp, None, size, policy)
    image = _pillow.open_image(data, policy.formats)
    _check_size(image, data, policy, size)
    return image


def _check_size(image: ImageFile.ImageFile, data: bytes, policy: DecodePolicy, size: int) -> None:
    plausible: int | None = None
    if image.format in ("JPEG", "MPO"):
        jpeg = read_jpeg_header(data)
        plausible = jpeg.max_pixels_in(size) if jpeg else None
    elif image.format == "PNG":
        png = read_png_header(data)
        plausible = png.max_pixels_in(size) if png else None
    elif image.format in ("BMP", "PPM") and image.tile and image.tile[0][0] == "raw":
        plausible = 8 * size
    _check_pixels(image.width, image.height, plausible, size, policy)


def _decode_ordinary_jpeg(
    data: bytes, jpeg: JpegHeader, policy: DecodePolicy, colorspace: Literal["RGB", "GRAY"] = "RGB"
) -> tuple[Decoded | None, str]:
    """Pixels, or None and why libjpeg would rather not: by default it paints what is missing grey and only warns."""
    channels = 3 if colorspace == "RGB" else 1
    pixels = np.empty((jpeg.height, jpeg.width, channels), np.uint8)  # a larger image than the header's does not fit and is refused
    try:
        simplejpeg.decode_jpeg(data, colorspace, buffer=pixels, strict=True)
    except ValueError as error:
        return None, _pillow.reason(error)
    facts = {"mode": "L"} if jpeg.components == 1 else {}
    if not jpeg.metadata:
        return Decoded(pixels, "image/jpeg", facts), ""
    with _pillow.decoding("cannot read EXIF"):
        turned = _pillow.orientation(_pillow.open_image(data, ("JPEG",)))
    return Decoded(orient(pixels, _note_orientation(turned, facts)), "image/jpeg", facts), ""


def _decode_with_pillow(data: bytes, policy: DecodePolicy, facts: dict[str, str]) -> Decoded:
    with _pillow.decoding("cannot be decoded"):
        image = _open(data, policy, len(data))
        deep = _pillow.is_deep_colour(image)
        turned = _pillow.orientation(image) if image.format == "TIFF" else 1
        image.load()
        media_type = _media_type(image)
        pixels = _to_rgb(image, policy, deep, facts)
        if image.format == "TIFF":  # Pillow turned it while loading
            _note_orientation(turned, facts)
        else:
            pixels = orient(pixels, _note_orientation(_pillow.orientation(image), facts))
        if _pillow.has_more_frames(image) and image.format != "MPO":
            facts["frames"] = "first of several"
    return Decoded(pixels, media_type, facts)


def _note_orientation(turned: int | None, facts: dict[str, str]) -> int:
    if turned is None:
        facts["exif"] = "unreadable"
    elif turned != 1:
        facts["exif_orientation"] = str(turned)
    return turned or 1


def _to_rgb(image: ImageFile.ImageFile, policy: DecodePolicy, deep: bool, facts: dict[str, str]) -> NDArray[np.uint8]:
    if image.mode != "RGB":
        facts["mode"] = image.mode
    if image.mode.startswith("I") or image.mode == "F":
        grey = _scale_grey(image, policy, facts)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if deep:
        if policy.sixteen_bit == "min_max":
            raise DecodeError("colour of 16 bits has only its high bytes read, which min_max cannot stretch: use full_range, or grey files")
        facts.update(bit_depth="16", scaling="high_byte")
    if _pillow.has_transparency(image):
        facts["alpha"] = "ignored"
        image.info.pop("transparency", None)
    if image.mode in ("RGBa", "La"):  # premultiplied
        return _pillow.to_array(image.convert("RGBA" if image.mode == "RGBa" else "LA").convert("RGB"))
    return _pillow.to_array(image if image.mode == "RGB" else image.convert("RGB"))


def _scale_grey(image: ImageFile.ImageFile, policy: DecodePolicy, facts: dict[str, str]) -> NDArray[np.uint8]:
    values = _pillow.to_array(image)
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    facts["bit_depth"] = "16" if sixteen else "32"
    if sixteen and policy.sixteen_bit == "full_range":
        facts["scaling"] = "full_range"
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    facts["scaling"] = "min_max"
    return stretch(values)


def stretch(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map the finite minimum to 0 and the finite maximum to 255, linearly, rounded; a constant array becomes 0."""
    exact = values.astype(np.float64)
    finite = np.isfinite(exact)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = exact[finite].min(), exact[finite].max()
    if high == low:
        return np.zeros(values.shape, np.uint8)
    exact = np.clip(np.nan_to_num(exact, nan=low, posinf=high, neginf=low), low, high)
    scaled: NDArray[np.uint8] = np.rint((exact - low) * (255 / (high - low))).astype(np.uint8)
    return scaled


def _media_type(image: ImageFile.ImageFile) -> str:
    name = str(image.format)
    return _MEDIA_TYPES.get(name) or Image.MIME.get(name) or f"image/{name.lower()}"


def _check_rgb(pixels: NDArray[np.uint8]) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ShapeError(f"the image is {pixels.dtype} of shape {pixels.shape}; needed: uint8 of height x width x 3")
