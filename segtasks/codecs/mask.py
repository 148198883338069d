"""Masks of class indices as palette PNGs, which open everywhere and show in colour; 16-bit grey for uint16 masks.

A mask read back is equal to the one written, here and by Pillow (mode P or I;16). `decode_label` reads other people's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from segtasks.codecs import _pillow
from segtasks.codecs.png import read_plain, read_png_header, write_grey16, write_palette
from segtasks.errors import DecodeError, LimitError, ShapeError

LABEL_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # lossless ones: JPEG invents values along every edge


def encode_mask(mask: NDArray[Any], palette: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode class indices HxW: uint8 as a palette PNG, uint16 (more than 256 values) as 16-bit grey.

    `palette` is RGB 0..255 by index; entries that the mask does not reach are not written.
    """
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
        raise ShapeError(f"mask is {mask.dtype} of shape {mask.shape}; needed: uint8 or uint16 of height x width")
    return write_palette(mask, palette) if mask.dtype == np.uint8 else write_grey16(mask)


def decode_mask(data: bytes, max_pixels: int) -> NDArray[Any]:
    """Class indices HxW, uint8 (palette or grey PNG) or uint16 (16-bit grey).

    `DecodeError` for damaged bytes and for anything but a PNG of one channel, `LimitError` above `max_pixels`.
    """
    values = decode_label(data, max_pixels, ("PNG",))
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise DecodeError(f"the mask is {values.dtype} of shape {values.shape}; needed: class indices of one channel")
    return values


def decode_label(data: bytes, max_pixels: int, formats: Sequence[str] = LABEL_FORMATS, *, color: bool = False) -> NDArray[Any]:
    """The values that a label file stores: HxW of uint8, uint16, int32 or float32, or HxWx3 uint8 for colour.

    Palette images give indices, or with `color` their colours; 1, 2 and 4-bit grey gives its own values, not those scaled to
    255 for display. Alpha is dropped. No orientation is applied. `DecodeError` and `LimitError` as in `decode_image`.
    """
    plain = read_plain(data, max_pixels) if "PNG" in formats else None
    if plain is not None and (plain.ndim == 3 or not color):
        return plain
    with _pillow.decoding("cannot be decoded"):
        image = _open(data, max_pixels, formats)
        stored = _pillow.raw_mode(image)
        if _pillow.is_deep_colour(image):
            raise DecodeError("colour of 16 bits a channel is no label: needed 8-bit colour, a palette or grey")
        image.load()
        if color:
            image.info.pop("transparency", None)
            return _pillow.to_array(image.convert("RGB"))
        if image.mode == "1":
            return _pillow.to_array(image).astype(np.uint8)
        if image.mode in ("LA", "PA"):
            return _pillow.to_array(image)[:, :, 0]
        if image.mode == "L" and stored.startswith(("L;2", "L;4")):
            return _pillow.to_array(image) // (85 if stored.startswith("L;2") else 17)
        if image.mode in ("P", "L", "I", "F") or image.mode.startswith("I;16"):
            return _pillow.to_array(image)
        return _pillow.to_array(image.convert("RGB"))


def read_palette(data: bytes, max_pixels: int, formats: Sequence[str] = LABEL_FORMATS) -> list[tuple[int, int, int]]:
    """The colours by index of a palette image; empty for any other. Pillow decodes it for them: errors as in `decode_label`."""
    with _pillow.decoding("cannot read the palette"):
        image = _open(data, max_pixels, formats)
        flat = image.getpalette() if image.mode == "P" else None
    return list(zip(flat[0::3], flat[1::3], flat[2::3])) if flat else []


def _open(data: bytes, max_pixels: int, formats: Sequence[str]) -> ImageFile.ImageFile:
    image = _pillow.open_image(data, formats)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise LimitError(f"the header claims {image.width}x{image.height} = {pixels} pixels; the limit is {max_pixels}")
    png = read_png_header(data)
    if png is not None and pixels > png.max_pixels_in(len(data)):
        found = f"the header claims {image.width}x{image.height} pixels"
        raise DecodeError(f"{found}, but {len(data)} bytes hold {png.max_pixels_in(len(data))} at most: cut off, or a bomb")
    return image
