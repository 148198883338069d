"""CamVid in SegNet's layout: `train.txt` with lines of image and label path, `train/x.jpg`, `trainannot/x.png`; val and test too.

Paths in the lists are often absolute (`/SegNet/CamVid/train/x.jpg`): they are resolved against the source by their end. Without
a list the split's folder is listed. Labels are 0..10 and 11 for void, which becomes `ignore_index`. The group is the video.
A listed image that is not there is refused by the stage, an image whose label is not there by `read` (`LabelError`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import cached_property

from segtasks.config import Config as BaseConfig
from segtasks.errors import InputError
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._labels import read_mask
from segtasks.readers._listing import IMAGE_SUFFIXES, item_size, item_version, stem, suffix
from segtasks.spec import ClassSpec, DatasetSpec, LabelEncoding
from segtasks.storage import Entry, Store

splits = ("train", "val", "test")
void = 11
_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


class Config(BaseConfig):
    """The layout has no options."""


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> CamvidReader:
    return CamvidReader(source, spec)


class CamvidReader:
    """See the module."""

    def __init__(self, source: Store, spec: DatasetSpec | None = None) -> None:
        self._source, self._spec = source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            classes = tuple(ClassSpec(name=name, color=color) for name, color in _CLASSES.items())
            table = (*((index, index) for index in range(void)), (void, 255))
            self._spec = DatasetSpec(name="camvid", classes=classes, label_encoding=LabelEncoding(kind="value", table=table))
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        seen: dict[str, str] = {}
        for split in splits:
            for image, label, where in self._pairs(split):
                if image in seen:
                    raise InputError(f"{where} names {image}, which {seen[image]} named before; needed: each image once")
                seen[image] = where
                files = self._listing.get(image), self._listing.get(label)
                video = posixpath.basename(stem(image)).rpartition("_")[0]
                yield SourceItem(image, image, item_size(*files), item_version(*files), split, video, {"mask": label})
        if not seen:
            raise InputError(
                f"no CamVid data at {self._source.url}: looked for train.txt, val.txt, test.txt with a pair of paths a line, and for "
                f"train/, val/, test/ with images; found {', '.join(list(self._listing)[:5]) or 'nothing'}"
            )

    def read(self, item: SourceItem) -> RawSample:
        return RawSample(self._source.read(item.path), read_mask(self._source, item.labels["mask"], self.spec()))

    @cached_property
    def _listing(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self._source.list()}

    def _pairs(self, split: str) -> Iterator[tuple[str, str, str]]:
        """Image, label and where the pair was found."""
        listed = f"{split}.txt"
        if listed not in self._listing:
            for path in self._listing:
                if posixpath.dirname(path) == split and suffix(path) in IMAGE_SUFFIXES:
                    yield path, _label_of(path), f"{split}/"
            return
        try:
            text = self._source.read(listed).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{listed} is no text in UTF-8: {error}; needed: lines of image and label path") from error
        for number, line in enumerate(text.splitlines(), 1):
            parts = line.split()
            if not parts:
                continue
            if len(parts) > 2:
                raise InputError(f"{listed}, line {number} has {len(parts)} parts: {line[:120]!r}; needed: image path and label path")
            image = self._resolve(parts[0])
            yield image, self._resolve(parts[1]) if len(parts) == 2 else _label_of(image), f"{listed}, line {number}"

    def _resolve(self, path: str) -> str:
        """The longest end of the path that the source has; where it has none, folder and file name."""
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in self._listing), "/".join(parts[-2:]))


def _label_of(image: str) -> str:
    return f"{posixpath.dirname(image)}annot/{posixpath.basename(stem(image))}.png"
