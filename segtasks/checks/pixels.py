"""What is measured on an image's pixels: their hash, what they look like, how much they vary."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtasks.checks.phash import perceptual_hash


@dataclass(frozen=True)
class PixelFacts:
    """`sha256` is over height, width and the RGB bytes, so that it knows an image in any file format; `std` in levels of 255."""

    sha256: bytes
    phash: bytes  # 8, big-endian
    mean: float
    std: float  # of the channel that varies most


def pixel_facts(pixels: NDArray[np.uint8]) -> PixelFacts:
    """Facts of uint8 HxWx3."""
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{height}x{width}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    image = Image.fromarray(pixels)
    counts = np.array(image.histogram(), np.float64).reshape(3, 256)
    levels = np.arange(256)
    means = counts @ levels / (height * width)
    spread = np.sqrt(np.maximum(0, counts @ levels**2 / (height * width) - means**2))
    return PixelFacts(digest.digest(), perceptual_hash(image).to_bytes(8, "big"), float(means.mean()), float(spread.max()))


_MODES = {"L": "grey", "LA": "grey", "La": "grey", "1": "1 bit", "P": "palette", "PA": "palette", "RGBA": "", "RGBa": ""}


def storage_traits(meta: dict[str, Any]) -> str:
    """How an image was stored, from the facts that decoding recorded, where that is not plain 8-bit RGB: `CMYK, turned by EXIF (6)`."""
    mode, depth = meta.get("mode", ""), meta.get("bit_depth")
    parts = [
        "grey" if mode.startswith("I") or mode == "F" else _MODES.get(mode, mode),
        f"{depth} bits" if depth else "",
        "alpha" if "alpha" in meta or mode in ("RGBA", "RGBa", "LA", "La", "PA") else "",
        f"turned by EXIF ({meta['exif_orientation']})" if "exif_orientation" in meta else "",
        "EXIF unreadable" if meta.get("exif") == "unreadable" else "",
        "several frames" if "frames" in meta else "",
        "decoder's warning" if "warning" in meta else "",
    ]
    return ", ".join(part for part in parts if part)
