"""CamVid, in SegNet's layout (indices of 11 classes) or as published (701 stills, labels in 32 colours).

- SegNet's: `train.txt` with lines of image and label path, `train/x.jpg`, `trainannot/x.png`; val and test too. Paths in the lists are
  often absolute (`/SegNet/CamVid/train/x.jpg`): they are resolved against the source by their end. Without a list the split's folder
  is listed. Labels are 0..10, and 11 for void, which becomes `ignore_index`; or in the colours below, as CVAT writes them.
- As published: labels `x_L.png` (`LabeledApproved_full`) and stills `x.png` (`701_StillsRaw_full`) in folders of any name. Folders
  called train, val and test are the splits (as on Kaggle), or lists as above; else there are none. `classes: 11` groups the colours as
  SegNet did, `32` takes each as a class; void is ignored. Colours are built in; `label_colors.txt` or `class_dict.csv` wins.
- The group is the video. A listed image that is not there is refused by the stage, an image without its label by `read` (`LabelError`).
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import Field

from segtasks.codecs.mask import decode_label
from segtasks.config import Config as BaseConfig
from segtasks.errors import DataFault, InputError
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._camvid_classes import COLORS, grouped_spec, parse_colors, segnet_spec, whole_spec
from segtasks.readers._labels import is_grey, read_mask
from segtasks.readers._listing import IMAGE_SUFFIXES, is_hidden, item_size, item_version, stem, suffix
from segtasks.spec import DatasetSpec, DecodePolicy
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
splits = ("train", "val", "test")
_LABEL = "_L.png"  # the end of a label's name, as published
_color_files = ("label_colors.txt", "class_dict.csv")


class Config(BaseConfig):
    """Options of the CamVid reader."""

    classes: Literal[11, 32] = Field(
        default=11, description="11: SegNet's; 32: those of the original colours (31 and void, which is ignored)"
    )


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> CamvidReader:
    return CamvidReader(config, source, spec)


class CamvidReader:
    """See the module."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._spec = self._find_spec()
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        seen: dict[str, str] = {}
        for split in (*splits, "") if self._labels else splits:
            for image, label, where in self._pairs(split):
                if image in seen:
                    raise InputError(f"{where} names {image}, which {seen[image]} named before; needed: each image once")
                seen[image] = where
                files = self._listing.get(image), self._listing.get(label)
                video = posixpath.basename(stem(image)).rpartition("_")[0]
                yield SourceItem(image, image, item_size(*files), item_version(*files), split, video, {"mask": label})
        if not seen:
            raise InputError(
                f"no CamVid data at {self._source.url}: looked for train.txt, val.txt, test.txt with a pair of paths a line, for images in "
                f"train/, val/, test/, and for x.png with a label x{_LABEL}; found {', '.join(list(self._listing)[:5]) or 'nothing'}"
            )
        if unused := len(self._stills) - len(seen.keys() & self._stills.keys()):
            log.info("%d stills are in no list and are passed over", unused)

    def read(self, item: SourceItem) -> RawSample:
        return RawSample(self._source.read(item.path), read_mask(self._source, item.labels["mask"], self.spec()))

    @cached_property
    def _listing(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self._source.list()}

    def _find_spec(self) -> DatasetSpec:
        file = next((path for path in self._listing if posixpath.basename(path) in _color_files), None)
        if self._labels or self._first_label_is_in_color(bool(file)):
            colors = parse_colors(self._text(file), file) if file else COLORS
            return whole_spec(colors) if self._config.classes == 32 else grouped_spec(colors, file or "the built-in table")
        if self._config.classes == 32:
            raise InputError(f"{self._source.url} has labels of indices, not of the 32 colours (x{_LABEL}); needed for them: classes: 11")
        return segnet_spec()

    def _first_label_is_in_color(self, has_color_file: bool) -> bool:
        """Datumaro and CVAT write the 32 colours into SegNet's layout. One of sky alone is grey, and with their file no index."""
        for _, label, _ in (pair for split in splits for pair in self._pairs(split)):
            if label in self._listing:
                try:
                    values = decode_label(self._source.read(label), DecodePolicy().max_pixels)
                except DataFault:
                    continue
                return not is_grey(values) or (has_color_file and values.ndim == 3)
        return False

    @cached_property
    def _labels(self) -> dict[str, str]:
        """The labels as published, by their still's name."""
        found: dict[str, str] = {}
        for path in self._listing:
            if path.endswith(_LABEL) and not is_hidden(path):
                other = found.setdefault(posixpath.basename(path).removesuffix(_LABEL), path)
                if other != path:
                    raise InputError(f"{other} and {path} are both the label of one still; needed: one of them")
        return found

    @cached_property
    def _stills(self) -> dict[str, str]:
        """Stills of the folders that have any with a label, and where its label is or should be."""
        images = {
            path: posixpath.basename(stem(path))
            for path in self._listing
            if suffix(path) in IMAGE_SUFFIXES and not path.endswith(_LABEL) and not is_hidden(path)
        }
        folders: dict[str, str] = {}  # of stills, to that of their labels
        for path, name in images.items():
            if name in self._labels:
                folders.setdefault(posixpath.dirname(path), posixpath.dirname(self._labels[name]))
        return {
            path: self._labels.get(name) or posixpath.join(folders[posixpath.dirname(path)], name + _LABEL)
            for path, name in images.items()
            if posixpath.dirname(path) in folders
        }

    def _pairs(self, split: str) -> Iterator[tuple[str, str, str]]:
        """Image, label and where the pair was found."""
        listed = f"{split}.txt"
        if listed in self._listing:
            yield from self._listed_pairs(listed)
        elif self._labels:
            if not any(f"{name}.txt" in self._listing for name in splits):
                for path, label in self._stills.items():
                    folder = posixpath.basename(posixpath.dirname(path))
                    if (folder if folder in splits else "") == split:
                        yield path, label, f"{posixpath.dirname(path)}/"
        else:
            for path in self._listing:
                if posixpath.dirname(path) == split and suffix(path) in IMAGE_SUFFIXES:
                    yield path, self._label_of(path), f"{split}/"

    def _listed_pairs(self, listed: str) -> Iterator[tuple[str, str, str]]:
        for number, line in enumerate(self._text(listed).splitlines(), 1):
            parts = line.split()
            if not parts:
                continue
            if len(parts) > 2:
                raise InputError(f"{listed}, line {number} has {len(parts)} parts: {line[:120]!r}; needed: image path and label path")
            image = self._resolve(parts[0])
            yield image, self._resolve(parts[1]) if len(parts) == 2 else self._label_of(image), f"{listed}, line {number}"

    def _text(self, path: str) -> str:
        try:
            return self._source.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: {error}; needed: lines of image and label path, or of colours") from error

    def _resolve(self, path: str) -> str:
        """The longest end of the path that the source has; where it has none, the still of that name, or else folder and file name."""
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        found = next((end for end in ends if end in self._listing), None)
        return found or self._named.get(stem(parts[-1]) if parts else "", "/".join(parts[-2:]))

    @cached_property
    def _named(self) -> dict[str, str]:
        return {posixpath.basename(stem(path)): path for path in self._stills} if self._labels else {}

    def _label_of(self, image: str) -> str:
        return self._stills.get(image) or f"{posixpath.dirname(image)}annot/{posixpath.basename(stem(image))}.png"
