"""One mask file an object, as in the Data Science Bowl 2018: `<split>/<id>/images/<id>.png` with `<split>/<id>/masks/*.png`.

- Or `images/<split>/x.png` with `masks/<split>/x/*.png`. `stage1_train` is the split `train`; any other folder is a split by its own name.
- A mask has 0 and one other value, and its image's size; one without a pixel, or with more values, is a `LabelError` that names it.
- Objects are of one class, or (`class_folders`) of the class that their folder names: `masks/<class>/*.png`, `masks/x/<class>/*.png`.
- Overlaps stay. In a split with any mask, an image without masks is refused; in a split with none, images have no truth.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segtasks.codecs import rle
from segtasks.codecs.image import read_header
from segtasks.codecs.mask import decode_label
from segtasks.config import Config as BaseConfig
from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers._base import Instance, RawSample, SourceItem
from segtasks.readers._labels import is_grey
from segtasks.readers._listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, is_hidden, item_size, stem, suffix, usual_split
from segtasks.readers._objects import BACKGROUND, object_classes, object_of, paint
from segtasks.spec import DatasetSpec
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
_reads_at_once = 8


class Config(BaseConfig):
    """Options of the reader of one mask file an object."""

    images: str = Field(default="images", min_length=1, pattern="^[^/]+$", description="name of the folders of images")
    masks: str = Field(default="masks", min_length=1, pattern="^[^/]+$", description="name of the folders of masks")
    class_name: str = Field(default="object", min_length=1, description="the class of all objects, for example nucleus")
    class_folders: bool = Field(default=False, description="masks lie in folders of their class's name instead")
    without_masks: Literal["refuse", "background"] = Field(
        default="refuse", description="an image without masks where others have some: refuse it, or take it as one without objects"
    )
    semantic: bool = Field(default=True, description="also paint a semantic mask of the objects")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> InstanceFolderReader:
    return InstanceFolderReader(config, source, spec)


class InstanceFolderReader:
    """See the module. The listing is made once, when it is first needed."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            names = [self._config.class_name]
            if self._config.class_folders:
                names = sorted({self._class_of(mask.path) for masks in self._objects.values() for mask in masks})
                log.info("classes by the folders of masks: %s", ", ".join(names))
            if BACKGROUND.name in names:
                raise InputError(f"objects cannot be of the class {BACKGROUND.name!r}, which is what is no object; needed: another name")
            classes = object_classes(names)
            name = self._source.url.rstrip("/").rsplit("/", 1)[-1]
            self._spec = DatasetSpec(name=name, classes=classes, ignore_index=255 if len(classes) <= 255 else 65535)
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        objects = self._objects
        labelled = {self._split(path) for path in objects}
        for path, entry in self._images.items():
            masks, split = objects.get(path, []), self._split(path)
            details = json.dumps([mask.path for mask in masks]) if split in labelled else ""
            versions = "\n".join(f"{mask.path} {mask.version}" for mask in masks)
            version = f"{entry.version}+{sha256(versions.encode()).hexdigest()[:32]}"
            yield SourceItem(path, path, item_size(entry, *masks), version, split, details=details)

    def read(self, item: SourceItem) -> RawSample:
        image = self._source.read(item.path)
        if not item.details:
            return RawSample(image)
        paths: list[str] = json.loads(item.details)
        if not paths and self._config.without_masks == "refuse":
            raise LabelError(f"{item.path} has no {self._config.masks}; needed: one at least, or the option without_masks: background")
        header = read_header(image, self.spec().decode)
        with ThreadPoolExecutor(_reads_at_once) as pool:  # hundreds of small files, each a request to an object store
            files = zip(paths, pool.map(self._bytes, paths), strict=True)
            objects = tuple(self._object(path, data, header.height, header.width) for path, data in files)
        mask = paint(objects, header.height, header.width, ignore_index=self.spec().ignore_index) if self._config.semantic else None
        return RawSample(image, mask, objects)

    def _bytes(self, path: str) -> bytes:
        try:
            return self._source.read(path)
        except FileNotFoundError as error:
            raise LabelError(f"{path} is missing") from error

    def _object(self, path: str, data: bytes, height: int, width: int) -> Instance:
        mask = self._pixels(path, data)
        if mask.shape != (height, width):
            raise LabelError(f"{path} is {mask.shape[0]}x{mask.shape[1]}, its image {height}x{width} (height x width)")
        name = self._class_of(path) if self._config.class_folders else self._config.class_name
        if name not in self.spec().names:
            raise LabelError(f"{path} is of the class {name!r}, which the classes do not have: {', '.join(self.spec().names[1:])}")
        return object_of(self.spec().names.index(name), rle.encode(mask), height, width)

    def _pixels(self, path: str, data: bytes) -> NDArray[np.bool_]:
        try:
            stored: NDArray[Any] = decode_label(data, self.spec().decode.max_pixels)
        except DataFault as fault:
            raise LabelError(f"{path}: {fault}") from fault
        if not is_grey(stored):
            raise LabelError(f"{path} is in colour; needed: 0 and one other value for the object")
        values = stored if stored.ndim == 2 else stored[:, :, 0]
        mask: NDArray[np.bool_] = values != 0
        if not mask.any():
            raise LabelError(f"{path} is empty: no pixel is of the object; remove the file if there is none")
        if (values[mask] != values.max()).any():
            found = np.unique(values)
            raise LabelError(
                f"{path} has the values {found[:8].tolist()}{' and more' if len(found) > 8 else ''}; needed: 0 and one other value, as a "
                "file is of one object (an image of ids is for the format folder; a mask must not be blurred by resizing)"
            )
        return mask

    def _split(self, image: str) -> str:
        """The outermost folder that is neither the image's own nor one of those named in the options."""
        before, after = _cut(image, self._config.images)
        folders = before[:-1] if len(after) == 1 and not self._many[before] else (*before, *after[:-1])
        return (usual_split(folders[0]) or folders[0]) if folders else ""

    def _class_of(self, mask: str) -> str:
        return posixpath.basename(posixpath.dirname(mask))

    @cached_property
    def _listing(self) -> list[Entry]:
        return [entry for entry in self._source.list() if not is_hidden(entry.path)]

    @cached_property
    def _images(self) -> dict[str, Entry]:
        found = {
            entry.path: entry
            for entry in self._listing
            if suffix(entry.path) in IMAGE_SUFFIXES and self._kind(entry.path) == self._config.images
        }
        if not found:
            some = ", ".join(entry.path for entry in self._listing[:3]) or "nothing"
            raise InputError(f"no images at {self._source.url}: looked for {self._usual}; found {some}")
        return found

    @cached_property
    def _many(self) -> dict[tuple[str, ...], bool]:
        """Whether a folder's images are, or will be, several, so that it is no image's own."""
        many: dict[tuple[str, ...], bool] = {}
        for path in self._images:
            before, _ = _cut(path, self._config.images)
            many[before] = before in many or not before or before[-1] in ("train", "val", "valid", "test")
        return many

    @cached_property
    def _objects(self) -> dict[str, list[Entry]]:
        """Masks by image. `InputError` where none belongs to an image."""
        own: dict[tuple[str, ...], str] = {}
        by_stem: dict[tuple[str, ...], str] = {}
        for path in self._images:
            before, after = _cut(path, self._config.images)
            key = (*before, "", *stem("/".join(after)).split("/"))
            if key in by_stem:
                raise InputError(f"{by_stem[key]} and {path} have the same stem, so that it is not clear whose the masks are")
            by_stem[key] = path
            if not self._many[before]:
                own[before] = path
        found: dict[str, list[Entry]] = defaultdict(list)
        lonely = []
        for entry in self._listing:
            if suffix(entry.path) not in LABEL_SUFFIXES or self._kind(entry.path) != self._config.masks:
                continue
            before, after = _cut(entry.path, self._config.masks)
            folders = after[:-1]
            if self._config.class_folders:
                folders = folders[:-1] if folders else ("",)  # beside the folders of classes: nobody's
            image = by_stem.get((*before, "", *folders)) or (own.get(before) if not folders else None)
            if image is None:
                lonely.append(entry.path)
            else:
                found[image].append(entry)
        self._check(lonely, found)
        return dict(found)

    def _check(self, lonely: list[str], found: dict[str, list[Entry]]) -> None:
        some = ", ".join(lonely[:3]) + (f", ... ({len(lonely)} files)" if len(lonely) > 3 else "")
        if not lonely and not found:
            raise InputError(
                f"{self._source.url} has {len(self._images)} images and no {self._config.masks}/ with PNG, TIFF, BMP or GIF; "
                f"needed: {self._usual}; images without truth are for the format images"
            )
        if not found:
            raise InputError(
                f"no mask belongs to an image at {self._source.url}: masks {some}; images {', '.join(list(self._images)[:3])}; "
                f"needed: {self._usual}; masks in folders of their class need the option class_folders, one mask an image the format folder"
            )
        if lonely:
            log.warning("%d masks belong to no image and are passed over: %s", len(lonely), some)

    def _kind(self, path: str) -> str:
        """The innermost folder of the path that is named in the options."""
        folders = path.split("/")[:-1]
        return next((name for name in reversed(folders) if name in (self._config.images, self._config.masks)), "")

    @property
    def _usual(self) -> str:
        images, masks = self._config.images, self._config.masks
        return f"<id>/{images}/x.png with <id>/{masks}/*.png, or {images}/<split>/x.png with {masks}/<split>/x/*.png"


def _cut(path: str, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The path's parts before the innermost folder of that name, and after it."""
    parts = path.split("/")
    at = max(index for index, part in enumerate(parts[:-1]) if part == folder)
    return tuple(parts[:at]), tuple(parts[at + 1 :])
