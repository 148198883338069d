"""Which files of a source are rasters, and which labels belong to them: by stem, below their folders."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import cached_property

from segtasks.errors import InputError
from segtasks.readers._listing import LABEL_SUFFIXES, by_stem, is_hidden, stem, suffix
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
_VECTORS = frozenset((".geojson", ".json"))


class Layout:
    """The listing is made once, when it is first needed."""

    def __init__(self, source: Store, images: str, labels: str, label_suffix: str, suffixes: Collection[str], vectors: str | None) -> None:
        self._source, self._images, self._folder, self._ending = source, images, labels, label_suffix
        self._suffixes = frozenset(f".{one.lower().lstrip('.')}" for one in suffixes)
        self._vectors = vectors

    @cached_property
    def listing(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self._source.list() if not is_hidden(entry.path)}

    @cached_property
    def rasters(self) -> list[Entry]:
        found = [entry for entry in self._below(self._images) if suffix(entry.path) in self._suffixes]
        if not found:
            others = [entry for entry in self.listing.values() if not entry.path.startswith(self._folder + "/")]
            found = [entry for entry in others if suffix(entry.path) in self._suffixes]
        if not found:
            seen = ", ".join(list(self.listing)[:5]) or "nothing"
            needed = f"{self._images}/<split>/x.tif, {self._images}/x.tif, or rasters anywhere outside {self._folder}/"
            raise InputError(f"no rasters at {self._source.url}: looked for {needed} ({', '.join(sorted(self._suffixes))}); found {seen}")
        return found

    @cached_property
    def labels(self) -> dict[str, Entry]:
        """By the raster's name: masks, or GeoJSON; `InputError` for both at once, and where none belongs to a raster."""
        if self._vectors:
            return {}
        kinds = LABEL_SUFFIXES | _VECTORS
        entries = [entry for entry in self._below(self._folder) if suffix(entry.path) in kinds]
        found = by_stem(entries, self._folder, "it is not clear which is the label", self._ending)
        if len({suffix(entry.path) in _VECTORS for entry in found.values()}) > 1:
            raise InputError(f"{self._folder}/ has masks and GeoJSON; needed: one kind of labels, or the option vectors")
        lonely = sorted(found.keys() - {self.name(entry.path) for entry in self.rasters})
        if lonely and len(lonely) == len(found):
            raise InputError(
                f"no label has the stem of a raster at {self._source.url}: labels {', '.join(lonely[:3])}, rasters "
                f"{', '.join(self.name(entry.path) for entry in self.rasters[:3])}; needed: equal ones (or label_suffix for x_mask.tif)"
            )
        if entries and not found:
            raise InputError(f"no label's stem ends in label_suffix {self._ending!r}: {entries[0].path}")
        if lonely:
            log.warning("%d labels have no raster and are passed over: %s", len(lonely), ", ".join(lonely[:3]))
        return {name: entry for name, entry in found.items() if name not in lonely}

    @property
    def has_vectors(self) -> bool:
        return any(suffix(entry.path) in _VECTORS for entry in self.labels.values())

    @cached_property
    def labelled_splits(self) -> set[str]:
        return {split_of(name) for name in self.labels}

    def name(self, path: str) -> str:
        """What raster and label have in common: the path below their folder, without suffix."""
        return stem(path.removeprefix(self._images + "/"))

    def label_path(self, name: str) -> str:
        """Where the raster's label is, or would be."""
        found = self.labels.get(name)
        return found.path if found else f"{self._folder}/{name}{self._ending}{'.geojson' if self.has_vectors else '.tif'}"

    def _below(self, folder: str) -> list[Entry]:
        return [entry for path, entry in self.listing.items() if path.startswith(folder + "/")]


def split_of(name: str) -> str:
    return name.split("/", 1)[0] if "/" in name else ""
