"""A folder of images and masks: `images/<split>/x.jpg`, `masks/<split>/x.png` of the same stem; or images only.

- The first folder below `images` is the split; deeper ones belong to the stem. Without an `images` folder every image at the
  source is taken, without masks. Masks are PNG, TIFF, BMP or GIF; JPEG is lossy and refused.
- `instances/<split>/x.png` (optional): an image of instance ids, 0 for none; an instance has the class of most of its pixels.
- `dataset.yaml` (optional) names classes, colours, ignored values and a value map; see `readers._describe`. Without it classes
  are inferred from the values of a stated number of masks, and the conclusion is logged.
- In a split with any mask, an image without one is refused (`LabelError`); in a split with none, images have no truth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import cached_property

from pydantic import Field

from segtasks.codecs.mask import decode_label
from segtasks.config import Config as BaseConfig
from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers import _describe
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._infer import infer_spec
from segtasks.readers._labels import is_grey, read_instances, read_mask
from segtasks.readers._listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, by_stem, is_hidden, item_size, item_version, stem, suffix
from segtasks.spec import DatasetSpec, DecodePolicy
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
description_file = "dataset.yaml"


class Config(BaseConfig):
    """Options of the folder reader."""

    images: str = Field(default="images", min_length=1, description="folder of the images, relative to the source")
    masks: str = Field(default="masks", min_length=1, description="folder of the masks")
    instances: str = Field(default="instances", min_length=1, description="folder of the instance id images")
    mask_suffix: str = Field(default="", description="what a mask's stem has after the image's, for example _mask")
    infer_from: int = Field(default=256, ge=1, description="masks looked at, evenly spread, where classes have to be inferred")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> FolderReader:
    return FolderReader(config, source, spec)


class FolderReader:
    """See the module. The listing is made once, when it is first needed."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._spec = self._find_spec()
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        labelled = self._labelled_splits()
        for entry in self._images:
            name = self._name(entry.path)
            split = _split(name)
            mask, ids = self._masks.get(name), self._instances.get(name)
            labels: dict[str, str] = {}
            files: list[Entry | None] = [entry]
            if split in labelled:
                labels["mask"] = mask.path if mask else f"{self._config.masks}/{name}{self._config.mask_suffix}.png"
                files.append(mask)
            if ids:
                labels["instances"] = ids.path
                files.append(ids)
            yield SourceItem(entry.path, entry.path, item_size(*files), item_version(*files), split, labels=labels)

    def read(self, item: SourceItem) -> RawSample:
        image = self._source.read(item.path)
        mask_path, ids_path = item.labels.get("mask"), item.labels.get("instances")
        mask = read_mask(self._source, mask_path, self.spec()) if mask_path else None
        if ids_path and mask is None:
            raise LabelError(f"{ids_path} has instances, but there is no mask to read their classes from")
        return RawSample(image, mask, read_instances(self._source, ids_path, mask, self.spec()) if ids_path and mask is not None else None)

    def _labelled_splits(self) -> set[str]:
        """Splits with a mask at least. `InputError` where no mask belongs to any image."""
        if not self._masks:
            return set()
        images = by_stem(self._images, self._config.images, "it is not clear whose the mask is")
        lonely = [entry for name, entry in self._masks.items() if name not in images]
        if len(lonely) == len(self._masks):
            raise InputError(
                f"no mask has the stem of an image at {self._source.url}: masks {_some(lonely)}, images {_some(images.values())}; "
                "needed: masks/<split>/x.png for images/<split>/x.jpg (or mask_suffix for x_mask.png)"
            )
        if lonely:
            log.warning("%d masks have no image and are passed over: %s", len(lonely), _some(lonely))
        return {_split(name) for name in self._masks.keys() & images.keys()}

    def _find_spec(self) -> DatasetSpec:
        name = self._source.url.rstrip("/").rsplit("/", 1)[-1]
        try:
            text = self._source.read(description_file)
        except FileNotFoundError:
            text = None
        if text is not None:
            description = _describe.parse(text, description_file)
            in_color = description.encoding == "color" or (description.encoding == "auto" and self._masks_are_in_color())
            return _describe.spec_of(description, name, color_masks=in_color)
        if not self._masks:
            log.info("no %s/ and no %s at %s: images without truth", self._config.masks, description_file, self._source.url)
            return DatasetSpec(name=name)
        return infer_spec(self._some_masks(self._config.infer_from), len(self._masks), name, DecodePolicy().max_pixels)

    def _masks_are_in_color(self) -> bool:
        """By the first mask that can be decoded; `InputError` where none of a few can."""
        for _, data in self._some_masks(8):
            try:
                return not is_grey(decode_label(data, DecodePolicy().max_pixels))
            except DataFault:
                continue
        return False

    def _some_masks(self, most: int) -> Iterator[tuple[str, bytes]]:
        entries = list(self._masks.values())
        chosen = min(most, len(entries))
        for number in range(chosen):
            entry = entries[number * len(entries) // chosen]
            yield entry.path, self._source.read(entry.path)

    def _name(self, path: str) -> str:
        """What image and mask have in common: the path below their folder, without suffix."""
        return stem(path.removeprefix(self._config.images + "/"))

    @cached_property
    def _images(self) -> list[Entry]:
        found, others = self._list(self._config.images, IMAGE_SUFFIXES)
        if not found and self._masks:
            raise InputError(f"{self._source.url} has {self._config.masks}/ but no images in {self._config.images}/")
        if not found:
            found, others = self._list("", IMAGE_SUFFIXES)
        if not found:
            looked = f"{self._config.images}/<split>/x.jpg, {self._config.images}/x.jpg, or images anywhere below it"
            raise InputError(f"no images at {self._source.url}: looked for {looked}; found {_some(others) or 'nothing'}")
        if others:
            log.warning("%d files are passed over, as they have no image's suffix: %s", len(others), _some(others))
        return found

    @cached_property
    def _masks(self) -> dict[str, Entry]:
        found, others = self._list(self._config.masks, LABEL_SUFFIXES)
        if not found and any(suffix(entry.path) in IMAGE_SUFFIXES for entry in others):
            raise InputError(f"{self._config.masks}/ has no PNG, TIFF, BMP or GIF but {_some(others)}; masks must be lossless")
        masks = by_stem(found, self._config.masks, "it is not clear which is the mask", self._config.mask_suffix)
        if found and not masks:
            raise InputError(f"no mask's stem ends in mask_suffix {self._config.mask_suffix!r}: {_some(found)}")
        return masks

    @cached_property
    def _instances(self) -> dict[str, Entry]:
        found, _ = self._list(self._config.instances, LABEL_SUFFIXES)
        if found and not self._masks:
            raise InputError(f"{self._config.instances}/ needs {self._config.masks}/: an instance's class is read from the mask")
        return by_stem(found, self._config.instances, "it is not clear which is meant")

    def _list(self, folder: str, suffixes: frozenset[str]) -> tuple[list[Entry], list[Entry]]:
        """The folder's files with one of the suffixes, and its other files that are not hidden."""
        found: list[Entry] = []
        others: list[Entry] = []
        for entry in self._source.list(folder):
            if not is_hidden(entry.path) and entry.path != description_file:
                (found if suffix(entry.path) in suffixes else others).append(entry)
        return found, others


def _split(name: str) -> str:
    return name.split("/", 1)[0] if "/" in name else ""


def _some(entries: Iterable[Entry]) -> str:
    """The first three paths, and how many there are."""
    paths = [entry.path for entry in entries]
    return ", ".join(paths[:3]) + (f", ... ({len(paths)} files)" if len(paths) > 3 else "")
