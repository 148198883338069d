"""Which of a source's JSON files are labelme's, and which image each is of. A JSON is opened only where its name does not tell, and never
its embedded image."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from segtasks.errors import InputError
from segtasks.readers import _labelme
from segtasks.readers._listing import IMAGE_SUFFIXES, is_hidden, stem, suffix
from segtasks.storage import Entry, Store


class LabelmeFiles:
    """The listing. `strangers` are the JSON files found to be none of labelme's, while `pairs` runs."""

    def __init__(self, source: Store) -> None:
        self._source = source
        self.images: dict[str, Entry] = {}
        self.jsons: list[Entry] = []
        self.strangers: list[str] = []
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for entry in source.list():
            if is_hidden(entry.path):
                continue
            if suffix(entry.path) == ".json":
                self.jsons.append(entry)
            elif suffix(entry.path) in IMAGE_SUFFIXES:
                self.images[entry.path] = entry
                self._by_stem[stem(entry.path)].append(entry.path)

    def pairs(self) -> Iterator[tuple[str, Entry]]:
        """The image's path and the JSON. The path is the JSON's own where the image is in it, and where it is broken: `read` says so."""
        claimed: dict[str, str] = {}
        for entry in self.jsons:
            path = self._image_of(entry)
            if path is None:
                self.strangers.append(entry.path)
                continue
            if path in claimed:
                raise InputError(f"{claimed[path]} and {entry.path} are both of the image {path}; needed: one JSON an image")
            claimed[path] = entry.path
            yield path, entry
        if not claimed:
            raise self.nothing_found()

    def heads(self) -> Iterator[tuple[str, Any]]:
        """Path and contents of each JSON of labelme's, an embedded image left out; broken ones are passed over."""
        for entry in self.jsons:
            try:
                fields = _labelme.read_head(self._source, entry)
            except (ValueError, RecursionError):
                continue
            if _labelme.is_labelme(fields):
                yield entry.path, fields

    def nothing_found(self) -> InputError:
        some = ", ".join(entry.path for entry in self.jsons[:3]) or "no JSON"
        return InputError(
            f"no labelme data at {self._source.url}: looked for x.json with a list of shapes, beside x.jpg or with imagePath or imageData; "
            f"found {some}"
        )

    def _image_of(self, entry: Entry) -> str | None:
        beside = self._by_stem.get(stem(entry.path), ())
        if len(beside) == 1:
            return beside[0]
        try:
            fields = _labelme.read_head(self._source, entry)
        except (ValueError, RecursionError):
            return entry.path
        if not _labelme.is_labelme(fields):
            return None
        name = fields.get("imagePath")
        path = self._resolve(posixpath.dirname(entry.path), name.replace("\\", "/") if isinstance(name, str) else "")
        if not path or (fields.get("imageData") and (path not in self.images or _name(path) != _name(entry.path))):
            return entry.path  # labelme too takes the embedded image first; one of another name may be that of a copy
        return path

    def _resolve(self, folder: str, name: str) -> str:
        """The place that `name` says, seen from `folder`; else the longest end of it in the folder or one above; else beside the JSON."""
        path = posixpath.normpath(posixpath.join(folder, name.lstrip("/")))
        if path in self.images:
            return path
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        above = folder
        while parts:
            for start in range(len(parts)):
                path = posixpath.join(above, *parts[start:])
                if path in self.images:
                    return path
            if not above:
                return posixpath.join(folder, parts[-1])
            above = posixpath.dirname(above)
        return ""


def _name(path: str) -> str:
    return stem(posixpath.basename(path))
