"""ADE20K as in the scene parsing challenge: `images/training/x.jpg`, `annotations/training/x.png`; or the full release, in its 150 classes.

- The source is `ADEChallengeData2016`, or the folder above it. 0 is ignored, 1..150 become 0..149; a class's number is its `source_id`.
- Names are built in; `objectInfo150.txt` at the source wins. `sceneCategories.txt` becomes `scene` in `meta`.
- The full release (`x_seg.png` beside `x.jpg`) codes a class as R / 10 * 256 + G. Its codes are mapped onto the 150 classes as
  the challenge did, all others are ignored; sizes stay as they are. Parts and object numbers are not read.
- `training` is the split `train`, `validation` is `val`, `testing` is `test`.
- In a split with any mask, an image without one is refused (`LabelError`); in a split with none, images have no truth.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.config import Config as BaseConfig
from segtasks.errors import InputError, LabelError
from segtasks.readers._ade20k_classes import CLASSES, CODES, from_object_info
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._labels import read_mask, read_values
from segtasks.readers._listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, by_stem, is_hidden, item_size, item_version, stem, suffix
from segtasks.spec import DatasetSpec, LabelEncoding
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
_IGNORE = 255
_SPLITS = {"training": "train", "validation": "val", "testing": "test"}
_FULL = "_seg.png"


class Config(BaseConfig):
    """The layout has no options."""


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> Ade20kReader:
    return Ade20kReader(source, spec)


class Ade20kReader:
    """See the module. The listing is made once, when it is first needed."""

    def __init__(self, source: Store, spec: DatasetSpec | None = None) -> None:
        self._source, self._spec = source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            text = None if self._is_full else self._text("objectInfo150.txt")
            classes = CLASSES if text is None else from_object_info(text, self._path("objectInfo150.txt"))
            if len(classes) > _IGNORE - 1:
                raise InputError(
                    f"objectInfo150.txt names {len(classes)} classes; masks of 8 bits with 0 for others have at most {_IGNORE - 1}"
                )
            table = ((0, _IGNORE), *((one.source_id or 0, index) for index, one in enumerate(classes)))
            self._spec = DatasetSpec(
                name="ade20k", classes=classes, ignore_index=_IGNORE, label_encoding=LabelEncoding(kind="value", table=table)
            )
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        lonely = [name for name in self._masks if name not in self._images]
        if self._masks and len(lonely) == len(self._masks):
            raise InputError(
                f"no mask at {self._source.url} belongs to an image: masks {', '.join(lonely[:3])}; "
                f"images {', '.join(list(self._images)[:3]) or 'none'}; needed: the same split and stem"
            )
        if lonely:
            log.warning("%d masks have no image and are passed over: %s", len(lonely), ", ".join(lonely[:3]))
        labelled = {_folder_of(name) for name in self._masks if name in self._images}
        scenes = self._scenes()
        for name, image in self._images.items():
            folder, mask = _folder_of(name), self._masks.get(name)
            labels: dict[str, str] = {}
            files: list[Entry | None] = [image]
            if folder in labelled:
                labels["mask"] = mask.path if mask else self._mask_path(name)
                files.append(mask)
            scene = _scene_of(name) if self._is_full else scenes.get(posixpath.basename(name), "")
            details = json.dumps({"scene": scene}) if scene else ""
            split = _SPLITS.get(folder, folder)
            yield SourceItem(image.path, image.path, item_size(*files), item_version(*files), split, labels=labels, details=details)

    def read(self, item: SourceItem) -> RawSample:
        image, path = self._source.read(item.path), item.labels.get("mask")
        meta = json.loads(item.details) if item.details else {}
        if path is None:
            return RawSample(image, meta=meta)
        return RawSample(image, self._full_mask(path) if path.endswith(_FULL) else read_mask(self._source, path, self.spec()), meta=meta)

    def _full_mask(self, path: str) -> NDArray[Any]:
        values = read_values(self._source, path, self.spec())
        if values.ndim != 3:
            raise LabelError(f"{path} has one channel; needed: colour, with the class as R / 10 * 256 + G")
        table = np.full(1 << 13, _IGNORE, np.uint8)
        table[list(CODES)] = list(CODES.values())
        indices: NDArray[Any] = table[values[:, :, 0] // 10 * np.uint16(256) + values[:, :, 1]]
        return indices

    def _scenes(self) -> dict[str, str]:
        """The scene of each image by its stem, of lines `ADE_train_00000001 abbey`."""
        text = self._text("sceneCategories.txt") or ""
        pairs = (line.split(maxsplit=1) for line in text.splitlines())
        return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}

    def _text(self, name: str) -> str | None:
        path = self._path(name)
        try:
            return self._source.read(path).decode("utf-8-sig")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: {error}") from error

    @cached_property
    def _entries(self) -> list[Entry]:
        """Images and masks; of the full release, not its parts and object masks."""
        listed = [one for one in self._source.list() if suffix(one.path) in IMAGE_SUFFIXES and not is_hidden(one.path)]
        if any(one.path.endswith(_FULL) for one in listed):
            return [one for one in listed if one.path.endswith(_FULL) or suffix(one.path) in (".jpg", ".jpeg")]
        return listed

    @cached_property
    def _is_full(self) -> bool:
        return any(one.path.endswith(_FULL) for one in self._entries)

    @cached_property
    def _root(self) -> str:
        """The folder that holds `images` and `annotations`, or the splits of the full release."""
        paths = ["/" + one.path for one in self._entries]
        if self._is_full:
            parts = [path.split("/") for path in paths]
            roots = {
                "/".join(part[: min(part.index(split) for split in _SPLITS if split in part)]) for part in parts if set(part) & set(_SPLITS)
            }
        else:
            images, masks = (
                {path.partition(f"/{folder}/")[0] for path in paths if f"/{folder}/" in path} for folder in ("images", "annotations")
            )
            roots = images & masks
        if len(roots) == 1:
            return roots.pop().strip("/")
        if roots:
            found = ", ".join(sorted(root.strip("/") or "." for root in roots))
            raise InputError(f"{self._source.url} has several data sets: {found}; make one of them the source")
        first = ", ".join(one.path for one in self._entries[:5]) or "no image"
        raise InputError(
            f"no ADE20K data at {self._source.url}: looked for images/training/x.jpg and annotations/training/x.png (the challenge's), and "
            f"for x.jpg and x{_FULL} below training/ (the full release's); found {first}"
        )

    def _path(self, path: str) -> str:
        return posixpath.join(self._root, path)

    def _mask_path(self, name: str) -> str:
        return self._path(f"{name}{_FULL}" if self._is_full else f"annotations/{name}.png")

    @cached_property
    def _images(self) -> dict[str, Entry]:
        folder = self._root if self._is_full else self._path("images")
        entries = [one for one in self._entries if one.path.startswith(f"{folder}/" if folder else "") and not one.path.endswith(_FULL)]
        found = by_stem(entries, folder, "it is not clear whose the mask is")
        return {name: one for name, one in found.items() if not self._is_full or _folder_of(name) in _SPLITS}

    @cached_property
    def _masks(self) -> dict[str, Entry]:
        if self._is_full:
            entries = [one for one in self._entries if one.path.endswith(_FULL) and one.path.startswith(self._root)]
            return by_stem(entries, self._root, "it is not clear which is meant", stem(_FULL))
        folder = self._path("annotations")
        entries = [one for one in self._entries if one.path.startswith(folder + "/") and suffix(one.path) in LABEL_SUFFIXES]
        return by_stem(entries, folder, "it is not clear which is meant")


def _folder_of(name: str) -> str:
    return name.split("/", 1)[0] if "/" in name else ""


def _scene_of(name: str) -> str:
    """The folder of an image of the full release, `training/urban/street/x`; none where it lies in the split's own."""
    return posixpath.basename(posixpath.dirname(name)) if name.count("/") > 1 else ""
