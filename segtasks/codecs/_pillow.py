"""Pillow behind an allow-list: opened without its process-wide limits, and every exception of a decoder made a `DecodeError`.

`Image.open` checks sizes against the global `MAX_IMAGE_PIXELS`, and warns; the plug-ins are called directly instead, and the
caller checks the size that the header claims before anything is loaded. Two plug-ins, TIFF and WebP, look at the global
again while loading, so for them it stays a second limit (178 956 970 pixels unless the process changed it).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from segtasks.errors import ConfigError, DecodeError, LimitError, did_you_mean

_ORIENTATION = ExifTags.Base.Orientation
_SIXTEEN_BIT_RAW = re.compile(r"(RGB|RGBA|RGBa|RGBX+|LA|CMYK);16")


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Bytes in memory are decoded inside: whatever goes wrong, except for lack of memory, is a fault of theirs."""
    try:
        yield
    except (MemoryError, ConfigError, DecodeError, LimitError):
        raise
    except Image.DecompressionBombError as error:
        raise LimitError(f"{what}: {error}") from error
    except Exception as error:
        raise DecodeError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).removesuffix(".")
    plain = text and isinstance(error, (OSError, SyntaxError, ValueError))  # Pillow's own words; others are accidents
    return text if plain else f"{type(error).__name__}: {text}".removesuffix(": ")


def open_image(data: bytes, formats: Sequence[str]) -> ImageFile.ImageFile:
    """The image with its header read and no pixel decoded. Formats are Pillow's names; others are a `ConfigError`."""
    if not data:
        raise DecodeError("the file is empty")
    problem = ""
    for name in formats:
        factory, accept = _plugin(name)
        if accept is not None and accept(data[:16]) is not True:
            continue
        try:
            image: ImageFile.ImageFile = factory(io.BytesIO(data), "")
            return image
        except MemoryError:
            raise
        except Image.DecompressionBombError as error:
            raise LimitError(f"{name}: {error}") from error
        except Exception as error:  # noqa: BLE001 - plug-ins raise what they like on malformed headers
            problem = f"{name}: {reason(error)}"
    if problem:
        raise DecodeError(problem)
    other = next((name for name, (_, accept) in Image.OPEN.items() if accept is not None and accept(data[:16]) is True), None)
    looks = f"it looks like {other}" if other else f"it starts with {data[:8]!r}"
    raise DecodeError(f"not an image of an allowed format ({', '.join(formats)}): {looks}")


def _plugin(name: str) -> Any:
    if name not in Image.OPEN:
        Image.init()
    if name not in Image.OPEN:
        raise ConfigError(f"decode.formats names {name!r}, which Pillow does not read.{did_you_mean(name, Image.OPEN)}")
    return Image.OPEN[name]


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How the file stores its samples, for example `RGB;16B`; empty where the plug-in does not say."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Colour of 16 bits a sample, of which Pillow reads the high byte only."""
    return _SIXTEEN_BIT_RAW.match(raw_mode(image)) is not None


def stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height as in the file; Pillow's TIFF plug-in has turned them already."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None and tags.get(_ORIENTATION) in (5, 6, 7, 8):
        return image.height, image.width
    return image.width, image.height


def orientation(image: ImageFile.ImageFile) -> int | None:
    """EXIF (or XMP) orientation 1 to 8; 1 where there is none or it has no meaning; None where EXIF is unreadable."""
    try:
        tags = getattr(image, "tag_v2", None)
        value = tags.get(_ORIENTATION, 1) if tags is not None else image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - malformed EXIF raises SyntaxError, struct.error, OSError and more
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def has_more_frames(image: ImageFile.ImageFile) -> bool:
    """May read on in the file: call it last."""
    try:
        return bool(getattr(image, "is_animated", False))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a malformed second frame is no fault of the first
        return False


def has_transparency(image: Image.Image) -> bool:
    """True where some pixel is not opaque."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        low, _ = image.getchannel(image.getbands()[-1]).getextrema()
        return isinstance(low, (int, float)) and low < 255
    return "transparency" in image.info


def to_array(image: Image.Image) -> NDArray[Any]:
    """A writable array of the image's own mode, in native byte order."""
    array = np.array(image)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
