"""What writers share about files: where an image goes, under which name, and its bytes."""

from __future__ import annotations

import hashlib
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from segtasks.codecs.image import decode_image, encode_jpeg, encode_png, read_header
from segtasks.errors import InputError, LabelError
from segtasks.readers._listing import usual_split
from segtasks.spec import DecodePolicy
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled

_IMAGE_FOLDERS = ("images", "JPEGImages", "leftImg8bit")
_PART = re.compile(r"(?:#[a-z]+=[^/#]*)+$")  # what an id has after the file's name: a tile, a window, a slice, a row of a table
_SUFFIXES = {
    "image/jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "image/png": (".png",),
    "image/tiff": (".tif", ".tiff"),
    "image/bmp": (".bmp", ".dib"),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
    "image/x-portable-anymap": (".ppm", ".pgm", ".pbm", ".pnm"),
    "image/jp2": (".jp2", ".j2k", ".jpx"),
}


def upright(image: bytes, media_type: str, policy: DecodePolicy) -> tuple[bytes, str]:
    """The same bytes, unless their EXIF says that they are shown turned: half of all tools do not look there, and the labels are for the
    image as displayed. Those are turned and encoded again: JPEG at quality 95, everything else as PNG."""
    if read_header(image, policy).orientation == 1:
        return image, media_type
    pixels = decode_image(image, policy).pixels
    return (encode_jpeg(pixels), "image/jpeg") if media_type == "image/jpeg" else (encode_png(pixels), "image/png")


def image_suffix(sample: Labelled) -> str:
    """The suffix of the image's own name where it fits its bytes, otherwise the usual one of its media type."""
    own = posixpath.splitext(_PART.sub("", sample.image_id))[1]
    usual = _SUFFIXES.get(sample.media_type)
    if usual is None:
        return own
    return own if own.lower() in usual else usual[0]


def stem_of(sample: Labelled, *, flat: bool = False) -> str:
    """The image's path without suffix, below a folder `images` (or what other formats call it) and that of its split; `flat`: with `__`
    for `/`. A tile's place stays: `a/b#y=0000,x=0512`. `LabelError` for a path or a split that leads out of the target."""
    parts = sample.image_id.split("/")
    if sample.split.startswith(".") or any(mark in sample.split for mark in "/\\\0\n\r"):
        raise LabelError(f"{sample.image_id} is in split {sample.split!r}, which cannot be a folder's name")
    if any(part in ("", ".", "..") for part in parts) or "\\" in sample.image_id or "\0" in sample.image_id:
        raise LabelError(f"{sample.image_id!r} is no relative path, and cannot be a file's name")
    start = max((place for place, part in enumerate(parts[:-1], 1) if part in _IMAGE_FOLDERS), default=0)
    parts = parts[start:]
    if len(parts) > 1 and sample.split and sample.split in (parts[0], usual_split(parts[0])):
        parts = parts[1:]
    part = _PART.search(parts[-1])
    stem = posixpath.splitext(_PART.sub("", "/".join(parts)))[0] + (part[0] if part else "")
    return stem.replace("/", "__") if flat else stem


def put(target: Store, path: str, data: bytes | None) -> None:
    """Write a file, or nothing where there is none to write (labels only)."""
    if data is not None:
        target.replace(path, data)


def by_name(splits: Mapping[str, Iterable[JSON]], unnamed: str) -> dict[str, Iterable[JSON]]:
    """The splits, images of none as those of `unnamed`: also where there is a split called so, as both are in one folder."""
    found: dict[str, list[Iterable[JSON]]] = {}
    for split, entries in splits.items():
        found.setdefault(split or unnamed, []).append(entries)
    return {name: parts[0] if len(parts) == 1 else _Joined(parts) for name, parts in found.items()}


class _Joined:
    def __init__(self, parts: list[Iterable[JSON]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[JSON]:
        return itertools.chain.from_iterable(self._parts)


def require_unique(splits: Mapping[str, Iterable[JSON]], key: str = "file") -> None:
    """`InputError` where two images were given one name. Names are held as 8 bytes each: only those that may be equal are compared."""
    hashes = np.fromiter((_hash(entry[key]) for entries in splits.values() for entry in entries), np.uint64)
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return
    seen: dict[str, str] = {}
    for entry in itertools.chain.from_iterable(splits.values()):
        name = entry[key]
        if _hash(name) not in suspects:
            continue
        if name in seen:
            raise InputError(
                f"{seen[name]} and {entry['image_id']} would both be {name}: this format cannot tell them apart; "
                "export fewer images (where=...), or use another format"
            )
        seen[name] = entry["image_id"]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
