"""What readers share about listings: which files are images, what an item's version is, which mask belongs to which image."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from segtasks.errors import InputError
from segtasks.storage import Entry

_USUAL = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".gif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".j2k",
)
# An image of a format that no policy allows is refused with a reason, not passed over in silence.
_OTHERS = (".apng", ".avif", ".dib", ".exr", ".heic", ".heif", ".ico", ".jpx", ".jxl", ".psd", ".tga")
IMAGE_SUFFIXES = frozenset((*_USUAL, *_OTHERS))
LABEL_SUFFIXES = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif"))
MISSING = "missing"
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test", "train": "train", "val": "val", "test": "test"}


def suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def stem(path: str) -> str:
    """The path without its last suffix."""
    return posixpath.splitext(path)[0]


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def usual_split(folder: str) -> str:
    """`train`, `val` or `test` where a word of the folder's name says so (`valid`, `train2017`, `stage1_test`), otherwise empty."""
    return next((_SPLITS[word] for word in re.split(r"[^a-z]+", folder.lower()) if word in _SPLITS), "")


def item_version(*entries: Entry | None) -> str:
    """Changes when any of the files does, also when a missing one appears."""
    return "+".join(entry.version if entry else MISSING for entry in entries)


def item_size(*entries: Entry | None) -> int:
    return sum(entry.size for entry in entries if entry)


def by_stem(entries: Iterable[Entry], folder: str, what: str, ending: str = "") -> dict[str, Entry]:
    """Entries by their path below `folder` without suffix and `ending`; two of one stem are an `InputError` that names them."""
    found: dict[str, Entry] = {}
    for entry in entries:
        name = stem(entry.path.removeprefix(folder + "/"))
        if ending and not name.endswith(ending):
            continue
        name = name.removesuffix(ending)
        if name in found:
            raise InputError(f"{found[name].path} and {entry.path} have the same stem, so that {what}; needed: one file a stem")
        found[name] = entry
    return found
