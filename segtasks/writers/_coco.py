"""What the two COCO writers share: categories and their ids, image entries, and JSON files that are written entry by entry."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np

from segtasks.spec import ClassSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._files import image_suffix, stem_of

_most_digits = 15  # below 2^53, as far as JavaScript counts
no_split = "default"  # as CVAT and datumaro call it


def category_ids(classes: Sequence[ClassSpec | None]) -> list[int]:
    """An id for each class (0 for None): its source's own, and for those that have none numbers above all others."""
    taken = {item.source_id for item in classes if item is not None and item.source_id is not None}
    free = iter(range(max((0, *taken)) + 1, 1 << 31))
    given: list[int | None] = []
    for item in classes:
        own = None if item is None else item.source_id
        given.append(None if item is None else own if own is not None and own not in given else next(free))
    return [0 if number is None else number for number in given]


def file_of(sample: Labelled) -> str:
    """The image's file, relative to its split's folder."""
    return f"{stem_of(sample)}{image_suffix(sample)}"


def image_ids(entries: Iterable[JSON]) -> Iterator[int]:
    """1, 2, ...; or the numbers that the files are called by (COCO's `000000032773.jpg`), where every one is called so. 8 bytes each."""
    stems = (entry["file"].rpartition("/")[2].partition(".")[0] for entry in entries)
    numbers = np.fromiter((int(stem) if stem.isdecimal() and len(stem) <= _most_digits else 0 for stem in stems), np.int64)
    own = numbers.all() and np.unique(numbers).size == numbers.size
    return map(int, numbers) if own else iter(range(1, numbers.size + 1))


def category(item: ClassSpec, number: int) -> JSON:
    found: JSON = {"id": number, "name": item.name, "supercategory": item.supercategory}
    return found


class Document:
    """A JSON object whose lists are written entry by entry: `{"images": [...], "annotations": [...]}`."""

    def __init__(self, target: Store, path: str) -> None:
        self._target, self._path = target, path
        self._file: IO[bytes] = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed by `close`
        self._before = b"{"

    def add(self, name: str, entries: Iterable[JSON]) -> None:
        self._file.write(self._before + json.dumps(name).encode() + b": ")
        _write_list(self._file, entries)
        self._before = b",\n"

    def close(self) -> None:
        """Put it at its place. The whole document passes through memory once."""
        with self._file:
            self._file.write(b"}\n")
            self._file.seek(0)
            self._target.replace(self._path, self._file.read())


def put_list(target: Store, path: str, entries: Iterable[JSON]) -> None:
    """A JSON list, written entry by entry. It passes through memory once; nothing is put where it is empty."""
    with tempfile.TemporaryFile("w+b") as file:
        if _write_list(file, entries):
            file.seek(0)
            target.replace(path, file.read())


def _write_list(file: IO[bytes], entries: Iterable[JSON]) -> int:
    """How many entries there were."""
    count = 0
    for count, entry in enumerate(entries, 1):
        file.write(b"[\n" if count == 1 else b",\n")
        file.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode())
    file.write(b"]" if count else b"[]")
    return count
