"""Cityscapes: `leftImg8bit/<split>/<city>/x_leftImg8bit.png`, `gtFine/<split>/<city>/x_gtFine_labelIds.png` and `_instanceIds.png`.

- The mask comes from the first there is of `labelIds`, `labelTrainIds`, `instanceIds` and `polygons.json`; the last is drawn as
  cityscapesScripts does. `classes: train` gives the 19 classes of the benchmark and ignores other ids; `all` gives the 34 raw ids.
- Objects come from `instanceIds` (or polygons): id * 1000 + n is one object, the id alone a group, which becomes a crowd.
- Splits are the folders' names. The group is the recording (city and sequence); city, sequence and frame are in `meta`.
- In a split with any label a photo without one is refused (`LabelError`). In a split with none, and where the label is a dummy of the test
  split, photos have no truth. Labels without a photo are counted and passed over.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segtasks.codecs.rle import encode_regions
from segtasks.config import Config as BaseConfig
from segtasks.errors import InputError, LabelError
from segtasks.readers._base import Instance, RawSample, SourceItem
from segtasks.readers._cityscapes_labels import BY_NAME, LABELS
from segtasks.readers._cityscapes_polygons import draw_ids, raw_ids
from segtasks.readers._labels import read_values, to_ids, to_indices
from segtasks.readers._listing import IMAGE_SUFFIXES, is_hidden, item_size, item_version, stem, suffix
from segtasks.spec import ClassSpec, DatasetSpec, LabelEncoding
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
_IGNORE = 255
_rim = 3  # labels of the test split hold no id above: unlabeled, ego vehicle, rectification border, out of roi
_KINDS = ("labelIds", "labelTrainIds", "instanceIds", "polygons")  # in this order they are looked at for the mask
_OBJECT_KINDS = ("instanceIds", "polygons")
_KIND = re.compile(rf"(?P<key>.+)_(?P<kind>{'|'.join(_KINDS)}|color|instanceTrainIds)\.(png|json)")
_RECORDING = re.compile(r"(?P<city>.+?)_(?P<sequence>\d+)(_(?P<frame>\d+))?$")


class Config(BaseConfig):
    """Options of the Cityscapes reader."""

    classes: Literal["train", "all"] = Field(default="train", description="train: the 19 classes of the benchmark; all: the 34 raw ids")
    images: str = Field(default="leftImg8bit", min_length=1, description="folder of the photos, for example leftImg8bit_foggy")
    annotations: str = Field(default="gtFine", min_length=1, description="folder of the labels: gtFine or gtCoarse")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> CityscapesReader:
    folders = {"images": config.images.strip("/"), "annotations": config.annotations.strip("/")}
    return CityscapesReader(config.model_copy(update=folders), source, spec)


class CityscapesReader:
    """See the module. The listing is made once, when it is first needed."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._refuse_other_classes()
            self._spec = _spec(self._config.classes)
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        keys = [_photo_key(entry.path, self._config.images) for entry in self._photos]
        lonely = sorted(self._labels.keys() - set(keys))
        if lonely and len(lonely) == len(self._labels):
            raise InputError(
                f"no label at {self._source.url} belongs to a photo: labels of {', '.join(lonely[:3])}; photos {', '.join(keys[:3])}; "
                "needed: the same split, city and name"
            )
        if lonely:
            log.warning("%d labels have no photo and are passed over: %s", len(lonely), ", ".join(lonely[:3]))
        labelled = {_split(key) for key in keys if key in self._labels}
        for entry, key in zip(self._photos, keys):
            labels: dict[str, str] = {}
            files: list[Entry | None] = [entry]
            if _split(key) in labelled:
                used = self._used(self._labels.get(key, {}))
                labels = {what: file.path for what, file in used.items()} or {"mask": self._label_path(key)}
                files += list({file.path: file for file in used.values()}.values()) or [None]
            recording = _RECORDING.match(posixpath.basename(key))
            group = f"{recording['city']}_{recording['sequence']}" if recording else ""
            yield SourceItem(entry.path, entry.path, item_size(*files), item_version(*files), _split(key), group, labels)

    def read(self, item: SourceItem) -> RawSample:
        image = self._source.read(item.path)
        recording = _RECORDING.match(posixpath.basename(_photo_key(item.path, self._config.images)))
        meta = {key: value for key, value in recording.groupdict().items() if value} if recording else {}
        path, objects_path = item.labels.get("mask"), item.labels.get("instances")
        if path is None:
            return RawSample(image, meta=meta)
        values = self._values(path)
        is_train_ids = _kind(path) == "labelTrainIds"
        if item.split == "test" and bool((values == _IGNORE if is_train_ids else values <= _rim).all()):
            return RawSample(image, meta=meta)
        encoded = self.spec().model_copy(update={"label_encoding": LabelEncoding()}) if is_train_ids else self.spec()
        mask = to_indices(raw_ids(values) if _kind(path) in _OBJECT_KINDS else values, encoded, path)
        if objects_path is None:
            return RawSample(image, mask, meta=meta)
        ids = values if objects_path == path else self._values(objects_path)
        if ids.shape != mask.shape:
            raise LabelError(f"{objects_path} is {ids.shape} and {path} {mask.shape}; needed: the same height and width")
        return RawSample(image, mask, self._objects(ids, objects_path), meta)

    def _values(self, path: str) -> NDArray[Any]:
        """Stored ids HxW."""
        if _kind(path) != "polygons":
            return to_ids(read_values(self._source, path, self.spec()), path)
        try:
            return draw_ids(self._source.read(path), path, self.spec().decode.max_pixels)
        except FileNotFoundError as error:
            raise LabelError(f"{path} is missing") from error

    def _objects(self, ids: NDArray[Any], path: str) -> tuple[Instance, ...]:
        """One for each object of a class that has such, and a crowd for each such class that has groups."""
        values = np.unique(ids)
        classes = dict(zip(values.tolist(), raw_ids(values).tolist()))
        if strange := [value for value, raw_id in classes.items() if raw_id >= len(LABELS)]:
            raise LabelError(f"{path} has ids that are no object: {strange[:8]}; needed: 0 to 33, or 1000 times that and a number")
        things = {index if one.source_id is None else one.source_id: index for index, one in enumerate(self.spec().classes) if one.isthing}
        kept = np.zeros(int(values[-1]) + 1, ids.dtype)
        kept[values] = [value if raw_id in things else 0 for value, raw_id in classes.items()]
        return tuple(
            Instance(things[classes[one.value]], one.bbox, float(one.area), one.counts, iscrowd=one.value < 1000)
            for one in encode_regions(kept[ids])
        )

    def _used(self, files: dict[str, Entry]) -> dict[str, Entry]:
        """What the mask and the objects of a photo are read from."""
        usable = [kind for kind in self._usable if kind in files]
        objects = [kind for kind in usable if kind in _OBJECT_KINDS]
        return {"mask": files[usable[0]], **({"instances": files[objects[0]]} if objects else {})} if usable else {}

    @property
    def _usable(self) -> list[str]:
        """Many raw ids have one train id, so that there is no way back."""
        return [kind for kind in _KINDS if self._config.classes == "train" or kind != "labelTrainIds"]

    def _label_path(self, key: str) -> str:
        return f"{self._config.annotations}/{key}_{posixpath.basename(self._config.annotations)}_labelIds.png"

    @cached_property
    def _photos(self) -> list[Entry]:
        listed = [entry for entry in self._source.list(self._config.images) if not is_hidden(entry.path)]
        found = [entry for entry in listed if suffix(entry.path) in IMAGE_SUFFIXES]
        if found:
            return found
        first = [entry.path for entry, _ in zip(self._source.list(), range(20_000))]
        below = next((path.partition(f"/{self._config.images}/")[0] for path in first if f"/{self._config.images}/" in path), None)
        hint = f"; it has {below}/{self._config.images}: make {self._source.url_of(below)} the source" if below else ""
        raise InputError(
            f"no Cityscapes data at {self._source.url}: looked for {self._config.images}/<split>/<city>/x_leftImg8bit.png; "
            f"found {', '.join(first[:5]) or 'nothing'}{hint}"
        )

    @cached_property
    def _labels(self) -> dict[str, dict[str, Entry]]:
        """The usable label files by kind of each photo, by what its path has in common with them."""
        folder, others = self._config.annotations, set()
        found: dict[str, dict[str, Entry]] = {}
        ending = f"_{posixpath.basename(folder)}"
        for entry in self._source.list(folder):
            match = _KIND.fullmatch(entry.path.removeprefix(f"{folder}/"))
            if match is None or is_hidden(entry.path):
                continue
            if match["kind"] in self._usable:
                found.setdefault(match["key"].removesuffix(ending), {})[match["kind"]] = entry
            else:
                others.add(match["kind"])
        if not found and others:
            raise InputError(
                f"{self._source.url_of(folder)} has only {', '.join(sorted(others))} files; needed for classes: {self._config.classes}: "
                f"{' or '.join(self._usable)} (cityscapesScripts makes them: createTrainIdLabelImgs)"
            )
        if not found:
            log.warning("no labels in %s: photos without truth", self._source.url_of(folder))
        return found

    def _refuse_other_classes(self) -> None:
        """Datumaro and CVAT write this layout for any classes, and these into a file: the same ids mean something else then."""
        try:
            text = self._source.read("label_colors.txt").decode("utf-8", "replace")
        except FileNotFoundError:
            return
        rows = (line.split(maxsplit=3) for line in text.splitlines() if not line.startswith("#"))
        names = [row[3].strip() for row in rows if len(row) == 4]
        known = {name.replace(" ", "") for name in (*BY_NAME, "license plate")}
        if strange := [name for name in names if name.replace(" ", "").replace("_", "") not in known]:
            raise InputError(
                f"label_colors.txt names classes that are not those of Cityscapes: {', '.join(strange[:5])}; needed: format folder with "
                f"images: {self._config.images}, masks: {self._config.annotations} and a dataset.yaml that names them"
            )


def _spec(which: str) -> DatasetSpec:
    kept = [one for one in LABELS if which == "all" or one.train_id != _IGNORE]
    classes = tuple(
        ClassSpec(
            name=one.name,
            color=one.color,
            source_id=None if one.id == index else one.id,
            isthing=one.has_instances,
            supercategory=one.category,
        )
        for index, one in enumerate(kept)
    )
    table = {**{one.id: _IGNORE for one in LABELS}, **{one.id: index for index, one in enumerate(kept)}}
    encoding = LabelEncoding(kind="value", table=tuple(table.items()))
    return DatasetSpec(name="cityscapes", classes=classes, ignore_index=_IGNORE, label_encoding=encoding)


def _photo_key(path: str, folder: str) -> str:
    """What photo and labels have in common: `<split>/<city>/<city>_<sequence>_<frame>`."""
    return stem(path.removeprefix(f"{folder}/").partition("_leftImg8bit")[0] if "_leftImg8bit" in path else path.removeprefix(f"{folder}/"))


def _kind(path: str) -> str:
    match = _KIND.fullmatch(path)
    return match["kind"] if match else ""


def _split(key: str) -> str:
    return key.split("/", 1)[0] if "/" in key else ""
