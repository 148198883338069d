"""What the two COCO writers share: categories and their ids, image entries, and JSON files that are written entry by entry."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from segtasks.spec import ClassSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._files import image_suffix, stem_of

no_split = "default"  # as CVAT and datumaro call it


def category_ids(classes: Sequence[ClassSpec | None]) -> list[int]:
    """An id for each class (0 for None): its source's own, and for those that have none numbers above all others."""
    taken = {item.source_id for item in classes if item is not None and item.source_id}
    free = iter(range(max((0, *taken)) + 1, 1 << 31))
    given: list[int] = []
    for item in classes:
        own = item.source_id if item is not None else 0
        fits = own and own not in given
        given.append(0 if item is None else own if own and fits else next(free))
    return given


def file_of(sample: Labelled) -> str:
    """The image's file, relative to its split's folder."""
    return f"{stem_of(sample)}{image_suffix(sample)}"


def image_ids(entries: Iterable[JSON]) -> Iterator[int]:
    """1, 2, ...; or the numbers that the files are called by (COCO's `000000032773.jpg`), where every one is called so."""
    numbers = [stem if (stem := entry["file"].rpartition("/")[2].partition(".")[0]).isdigit() else "" for entry in entries]
    by_name = [int(number) for number in numbers if number]
    own = len(set(by_name)) == len(numbers) and all(0 < number < 1 << 53 for number in by_name)
    return iter(by_name if own else range(1, len(numbers) + 1))


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
        self._file.write(self._before + json.dumps(name).encode() + b": [")
        for number, entry in enumerate(entries):
            self._file.write(b",\n" if number else b"\n")
            self._file.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode())
        self._file.write(b"]")
        self._before = b",\n"

    def close(self) -> None:
        """Put it at its place. The whole document passes through memory once."""
        with self._file:
            self._file.write(b"}\n")
            self._file.seek(0)
            self._target.replace(self._path, self._file.read())
