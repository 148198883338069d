"""The contract of a reader, shown on a small sound data set of its format that the author of the reader provides."""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from segtasks.codecs import rle
from segtasks.codecs.image import decode_image
from segtasks.codecs.volume import decode_volume
from segtasks.config import validate
from segtasks.errors import DataFault
from segtasks.readers._base import RawSample, Reader, SourceItem
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.testing._base import check_config, small_config


def check_reader(
    module: ModuleType, source: Store, options: Mapping[str, Any] | None = None, *, faulty: Collection[str] = (), most: int = 50
) -> None:
    """Everything below. `faulty`: image ids whose `read` must raise a `DataFault`; of the others the first `most` are read."""
    check_config(module.Config)
    config = small_config(module, options)
    watched = _Watched(source)
    driver: Reader = module.build(config, watched)
    spec = driver.spec()
    again = validate(DatasetSpec, json.loads(spec.model_dump_json()))
    assert again == spec, "the spec changes on its way through JSON"
    watched.whole.clear()
    items = list(driver.scan())
    check_items(items, list(module.build(config, source).scan()))
    read_whole = watched.whole & {item.path for item in items}
    assert not read_whole, f"scan reads whole images ({sorted(read_whole)[:3]}); needed: a cheap listing"
    assert set(faulty) <= {item.image_id for item in items}, "scan does not list the faulty items; needed: they are refused by read"
    worker: Reader = module.build(config, source, spec)
    assert worker.spec() == spec, "a reader made with a spec has another one"
    sound = [item for item in items if item.image_id not in faulty]
    for item in sound[:most]:
        stored = SourceItem(**json.loads(json.dumps(dataclasses.asdict(item))))
        check_sample(worker.read(stored), spec, item.image_id)
        _check_equal(worker.read(item), driver.read(item), item.image_id)
    for item in items:
        if item.image_id in faulty:
            try:
                worker.read(item)
            except DataFault:
                continue
            raise AssertionError(f"{item.image_id} is read without a DataFault")


def check_items(items: list[SourceItem], again: list[SourceItem]) -> None:
    """Ids unique, paths POSIX and relative, sizes and versions known, and a second listing equal to the first."""
    assert items, "scan lists nothing"
    ids = [item.image_id for item in items]
    assert len(set(ids)) == len(ids), f"image ids are not unique: {sorted({name for name in ids if ids.count(name) > 1})[:3]}"
    for item in items:
        for path in (item.image_id, item.path, *item.labels.values()):
            assert _is_relative(path), f"{path!r} is not a POSIX path relative to the source"
        assert item.size > 0, f"{item.image_id} has size {item.size}; needed: its bytes, which the partition counts"
        assert item.version, f"{item.image_id} has no version; needed: what changes when its content does"
    assert items == again, "a second scan of the same source lists otherwise"


def check_sample(sample: RawSample, spec: DatasetSpec, image_id: str) -> None:
    """The image decodes, and its truth has its size and holds only classes and the ignore value."""
    if sample.empty:
        assert not sample.image, f"{image_id} is empty, and has an image"
        return
    if sample.axes != "YXC":
        _check_volume(sample, spec, image_id)
        return
    try:
        found = sample.referenced or decode_image(sample.image, spec.decode)
    except DataFault as fault:
        raise AssertionError(f"{image_id}: the bytes are no image: {fault}") from fault
    assert sample.referenced is None or not sample.image, f"{image_id} is referenced, and brings bytes all the same"
    size = (found.height, found.width)
    _check_mask(sample, size, spec, image_id)
    for instance in sample.instances or ():
        assert 0 <= instance.category_id < spec.num_classes, f"{image_id}: an instance has category {instance.category_id}"
        pixels = int(rle.decode(instance.counts, *size).sum())
        assert instance.area >= 0, f"{image_id}: an instance has area {instance.area}"
        assert pixels > 0 or instance.area == 0, f"{image_id}: an instance of area {instance.area} covers no pixel"
        assert len(instance.bbox) == 4, f"{image_id}: a box is {instance.bbox}; needed: x, y, width, height"
        assert all(np.isfinite(side) for side in instance.bbox), f"{image_id}: a box is {instance.bbox}"
    _check_meta(sample, image_id)


def _check_volume(sample: RawSample, spec: DatasetSpec, image_id: str) -> None:
    """A volume decodes in its axes; mask and spacing are of its Z, Y, X."""
    assert sample.axes in ("ZYX", "CZYX"), f"{image_id}: axes are {sample.axes}; needed: YXC, ZYX or CZYX"
    try:
        array, spacing, _ = decode_volume(sample.image, spec.decode.max_pixels)
    except DataFault as fault:
        raise AssertionError(f"{image_id}: the bytes are no volume: {fault}") from fault
    assert array.ndim == len(sample.axes), f"{image_id}: the volume has the shape {array.shape} and the axes {sample.axes}"
    assert sample.spacing == spacing, f"{image_id}: spacing is {sample.spacing}, the volume's own {spacing}"
    assert sample.instances is None, f"{image_id}: a volume has instances; needed: none, they are of images"
    _check_mask(sample, array.shape[-3:], spec, image_id)
    _check_meta(sample, image_id)


def _check_mask(sample: RawSample, size: tuple[int, ...], spec: DatasetSpec, image_id: str) -> None:
    if sample.mask is None:
        return
    assert spec.classes, f"{image_id} has a mask, but the spec has no classes"
    assert sample.mask.dtype in (np.uint8, np.uint16), f"{image_id}: the mask is {sample.mask.dtype}; needed: uint8 or uint16"
    assert sample.mask.shape == size, f"{image_id}: the mask is {sample.mask.shape} and the image as displayed is {size}"
    allowed = {*range(spec.num_classes), spec.ignore_index}
    unknown = set(np.unique(sample.mask).tolist()) - allowed
    assert not unknown, f"{image_id}: the mask holds {sorted(unknown)[:5]}, which are neither classes nor the ignore value"


def _check_meta(sample: RawSample, image_id: str) -> None:
    for key, value in sample.meta.items():
        assert isinstance(key, str), f"{image_id}: meta has the key {key!r}; needed: strings"
        assert isinstance(value, str), f"{image_id}: meta {key!r} is {value!r}; needed: a string"


def _check_equal(first: RawSample, second: RawSample, image_id: str) -> None:
    assert first.image == second.image, f"{image_id}: driver and worker read other bytes"
    assert (first.mask is None) == (second.mask is None), f"{image_id}: only one of driver and worker reads a mask"
    if first.mask is not None:
        assert np.array_equal(first.mask, second.mask), f"{image_id}: driver and worker read other masks"  # type: ignore[arg-type]
    assert first.instances == second.instances, f"{image_id}: driver and worker read other instances"
    assert dict(first.meta) == dict(second.meta), f"{image_id}: driver and worker read other meta"


def _is_relative(path: str) -> bool:
    return bool(path) and not path.startswith(("/", "../")) and "\\" not in path and "://" not in path and posixpath.normpath(path) == path


class _Watched:
    """A store that remembers which objects were read whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.whole: set[str] = set()

    def read(self, path: str) -> bytes:
        self.whole.add(path)
        return self._store.read(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
