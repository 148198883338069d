"""PASCAL VOC: `JPEGImages/x.jpg`, `SegmentationClass/x.png`, `SegmentationObject/x.png`, `ImageSets/Segmentation/<split>.txt` with names.

- The source is that folder, or one above it (`VOCdevkit/VOC2012`). labelme's and CVAT's exports in this layout are read too.
- Classes are VOC's own 20 and `background`, unless `class_names.txt` (labelme) or `labelmap.txt` (CVAT, Datumaro) says others.
- Masks hold indices, 255 is void; masks in colour, and palettes where a `labelmap.txt` has their colours, are read by colour.
- A name of `trainval` belongs to `train` or `val` where it is in one of them. Without lists every image that has a mask is taken.
- An object has the class of most of its pixels, background not counted; the void border (255) is no object, and what lies on background
  alone is left out and counted (`meta`).
- In a split with any mask, an image without one is refused (`LabelError`); in a split with none (test), images have no truth.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segtasks.config import Config as BaseConfig
from segtasks.errors import InputError, LabelError
from segtasks.readers import _voc_classes
from segtasks.readers._base import Instance, RawSample, SourceItem
from segtasks.readers._labels import instances_of, is_grey, read_values, to_ids, to_indices
from segtasks.readers._listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, by_stem, is_hidden, item_size, item_version, stem, suffix
from segtasks.spec import DatasetSpec
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
_IMAGES, _OBJECTS, _LISTS = "JPEGImages", ("SegmentationObject", "SegmentationObjectPNG"), "ImageSets/Segmentation"
_MASKS = ("SegmentationClass", "SegmentationClassPNG")  # an older labelme has PNGs in the latter and arrays in the former
_published = ("train", "val", "test")


class Config(BaseConfig):
    """Options of the VOC reader."""

    folder: str = Field(default="", description="folder with JPEGImages; none: the source, or the only such folder below it")
    masks: str = Field(default="", description="folder of the class masks, for example SegmentationClassAug; none: SegmentationClass")
    lists: tuple[str, ...] = Field(
        default=(), description="lists in ImageSets/Segmentation that are the splits, for example [trainaug, val]; none: train, val, test"
    )


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> VocReader:
    folders = {"folder": config.folder.strip("/"), "masks": config.masks.strip("/")}
    return VocReader(config.model_copy(update=folders), source, spec)


class VocReader:
    """See the module. The listing is made once, when it is first needed."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            name = posixpath.basename(self._root or self._source.url.rstrip("/"))
            self._spec = _voc_classes.find_spec(self._source, self._root, name)
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        listed = self._listed()
        splits = {split for name, (split, _) in listed.items() if name in self._masks}
        lonely = [name for name in self._masks if name not in self._images]
        if lonely:
            log.warning("%d masks have no image in %s and are passed over: %s", len(lonely), _IMAGES, ", ".join(lonely[:3]))
        if len(listed) < len(self._images):
            log.info("%d of %d images are in no list or have no mask: passed over", len(self._images) - len(listed), len(self._images))
        for name, (split, _) in listed.items():
            image, mask, objects = self._images.get(name), self._masks.get(name), self._objects.get(name)
            labels: dict[str, str] = {}
            files = [image]
            if split in splits:
                labels["mask"] = mask.path if mask else self._path(f"{self._config.masks or _MASKS[0]}/{name}.png")
                files.append(mask)
            if mask and objects:
                labels["instances"] = objects.path
                files.append(objects)
            path = image.path if image else self._path(f"{_IMAGES}/{name}.jpg")
            yield SourceItem(path, path, item_size(*files), item_version(*files), split, labels=labels)

    def read(self, item: SourceItem) -> RawSample:
        image = self._source.read(item.path)
        if "mask" not in item.labels:
            return RawSample(image)
        mask = self._read_mask(item.labels["mask"])
        if "instances" not in item.labels:
            return RawSample(image, mask)
        instances, left_out = self._read_objects(item.labels["instances"], mask)
        return RawSample(image, mask, instances, {"objects_on_background": str(left_out)} if left_out else {})

    def _read_mask(self, path: str) -> NDArray[Any]:
        spec = self.spec()
        values = read_values(self._source, path, spec)
        if values.ndim == 3 or spec.label_encoding.kind == "color":
            colors = values if values.ndim == 3 else read_values(self._source, path, spec, color=True)
            try:
                return to_indices(colors, _voc_classes.by_color(spec), path)
            except LabelError:
                if not is_grey(values):
                    raise
        return to_indices(values, _voc_classes.by_index(spec), path)

    def _read_objects(self, path: str, mask: NDArray[Any]) -> tuple[tuple[Instance, ...], int]:
        """The objects, and how many there are on background alone: labelme and CVAT give a number to shapes of that class too."""
        spec = self.spec()
        values = read_values(self._source, path, spec)
        ids = to_ids(values, path) if is_grey(values) else to_indices(values, _voc_classes.by_voc_color(spec), path)
        ids = np.where(ids == spec.ignore_index, 0, ids)
        background = _voc_classes.background_of(spec)
        if background is None:
            return instances_of(ids, mask, spec, path), 0
        counted = np.where(mask == background, np.array(spec.ignore_index, mask.dtype), mask)
        found = instances_of(ids, counted, spec, path)
        return found, len(np.setdiff1d(ids[(mask == background) & (ids != 0)], ids[counted != spec.ignore_index]))

    def _listed(self) -> dict[str, tuple[str, str]]:
        """The split and the place of each name, in the order of the lists; without lists those of every mask that has an image."""
        chosen = self._config.lists or tuple(name for name in _published if name in self._lists)
        if unknown := [name for name in chosen if name not in self._lists]:
            raise InputError(f"{self._path(_LISTS)} has no {unknown[0]}.txt; found {', '.join(self._lists) or 'no list'}")
        if not chosen and "trainval" not in self._lists:
            chosen = tuple(self._lists)
        listed: dict[str, tuple[str, str]] = {}
        for split in chosen:
            for name, where in self._names(split):
                if name in listed:
                    raise InputError(f"{where} names {name}, which {listed[name][1]} named before; needed: each image in one split, once")
                listed[name] = ("" if split == "default" else split, where)  # CVAT's word for no split
        if not self._config.lists and "trainval" in self._lists:
            for name, where in self._names("trainval"):
                listed.setdefault(name, ("trainval", where))
        if listed and not any(name in self._images for name in listed):
            raise InputError(
                f"none of the {len(listed)} names in {self._path(_LISTS)} is an image of {self._path(_IMAGES)}: "
                f"names {', '.join(list(listed)[:3])}; images {', '.join(list(self._images)[:3])}"
            )
        if listed:
            return listed
        if not any(name in self._images for name in self._masks):
            masks = f"{len(self._masks)} masks, none of them of an image" if self._masks else "no masks"
            raise InputError(
                f"{self._source.url_of(self._root)} has {len(self._images)} images in {_IMAGES} and {masks}; needed: {_MASKS[0]}/x.png for "
                f"{_IMAGES}/x.jpg, or lists in {_LISTS} (Annotations/*.xml are boxes, which are no masks)"
            )
        return {name: ("", self._masks[name].path) for name in self._masks if name in self._images}

    def _names(self, split: str) -> Iterator[tuple[str, str]]:
        """Names and where they were found. A line is a name, or the path of an image (and its mask), with or without suffix."""
        path = self._lists[split].path
        try:
            text = self._source.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: {error}; needed: the name of an image in each line") from error
        for number, line in enumerate(text.splitlines(), 1):
            name = line.strip().strip('"').replace("\\", "/")
            if name:
                first = stem(name.split()[0]).lstrip("/").removeprefix(f"{_IMAGES}/")
                found = next((one for one in (name, stem(name), first) if one in self._images), name)
                yield found, f"{path}, line {number}"

    @cached_property
    def _entries(self) -> list[Entry]:
        """The files that matter, in one listing: not the thousands of Annotations."""
        folders = {_IMAGES, *_MASKS, *_OBJECTS, "ImageSets", *([posixpath.basename(self._config.masks)] if self._config.masks else [])}
        return [one for one in self._source.list() if not is_hidden(one.path) and not folders.isdisjoint(one.path.split("/")[:-1])]

    @cached_property
    def _root(self) -> str:
        """The folder that holds the images' folder, without a slash at its end."""
        if self._config.folder:
            return self._config.folder
        marked = f"/{_IMAGES}/"
        paths = ["/" + one.path for one in self._entries]
        roots = sorted({path.partition(marked)[0].strip("/") for path in paths if marked in path})
        if len(roots) > 1:  # labelme's export to COCO has JPEGImages too
            masked = {path.partition(f"/{masks}/")[0].strip("/") for masks in _MASKS for path in paths if f"/{masks}/" in path}
            roots = [root for root in roots if root in masked] or roots
        if len(roots) == 1:
            return roots[0]
        if roots:
            raise InputError(f"{self._source.url} has {_IMAGES} in {', '.join(roots[:5])}; say which is meant by the option folder")
        first = ", ".join(one.path for one, _ in zip(self._source.list(), range(5)))
        raise InputError(
            f"no VOC data at {self._source.url}: looked for {_IMAGES}/ here and below, as in VOCdevkit/VOC2012; found {first or 'nothing'}"
        )

    def _path(self, path: str) -> str:
        return posixpath.join(self._root, path)

    def _in(self, folders: tuple[str, ...], suffixes: frozenset[str]) -> dict[str, Entry]:
        """By name, of the first folder that has any."""
        for folder in map(self._path, folders):
            entries = [one for one in self._entries if one.path.startswith(folder + "/") and suffix(one.path) in suffixes]
            if entries:
                return by_stem(entries, folder, "it is not clear which is meant")
        return {}

    @cached_property
    def _images(self) -> dict[str, Entry]:
        return self._in((_IMAGES,), IMAGE_SUFFIXES)

    @cached_property
    def _masks(self) -> dict[str, Entry]:
        found = self._in((self._config.masks,) if self._config.masks else _MASKS, LABEL_SUFFIXES)
        if self._config.masks and not found:
            raise InputError(f"there are no masks (PNG) in {self._source.url_of(self._path(self._config.masks))}: the option masks")
        return found

    @cached_property
    def _objects(self) -> dict[str, Entry]:
        return self._in(_OBJECTS, LABEL_SUFFIXES)

    @cached_property
    def _lists(self) -> dict[str, Entry]:
        return self._in((_LISTS,), frozenset((".txt",)))
