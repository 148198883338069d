"""Which classes a model has, and how a data set's class indices become the model's (and the model's the output's)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import ConfigError, InputError, did_you_mean
from segtasks.spec import ClassSpec, DatasetSpec


def mapped_classes(classes: Sequence[ClassSpec], class_map: Mapping[str, str]) -> tuple[ClassSpec, ...]:
    """The classes after renaming and merging, in order of first appearance; a merged class keeps its first member's colour.

    `class_map` goes from a name in `classes` to the new name; names that it leaves out stay. A new name that is also a class
    takes that class's own colour.
    """
    names = [item.name for item in classes]
    for name in class_map:
        if name not in names:
            raise ConfigError(f"class_map names {name!r}, which is no class.{did_you_mean(name, names)}")
    colors = {item.name: item.color for item in classes}
    result: dict[str, ClassSpec] = {}
    for item in classes:
        name = class_map.get(item.name, item.name)
        result.setdefault(name, ClassSpec(name=name, color=colors.get(name, item.color)))
    return tuple(result.values())


def model_spec(data: DatasetSpec, class_map: Mapping[str, str], initial: DatasetSpec | None = None) -> DatasetSpec:
    """The spec of a model trained on `data`. With the same class names as the checkpoint it starts from, it keeps their order."""
    if not data.classes:
        raise InputError(f"data set {data.name!r} has no classes: its images have no labels; needed: masks and a list of classes")
    classes = mapped_classes(data.classes, class_map)
    if initial is not None and sorted(item.name for item in classes) == sorted(initial.names):
        classes = initial.classes
    if data.ignore_index < len(classes):
        raise InputError(f"ignore_index {data.ignore_index} of {data.name!r} would be a class; needed: a value above {len(classes) - 1}")
    return data.model_copy(update={"classes": classes})


def index_table(source: Sequence[ClassSpec], class_map: Mapping[str, str], target: Sequence[ClassSpec]) -> NDArray[np.int64]:
    """Target index for each source index. A class that the target does not have is a `ConfigError`."""
    places = {item.name: place for place, item in enumerate(target)}
    table = np.empty(len(source), np.int64)
    for place, item in enumerate(source):
        name = class_map.get(item.name, item.name)
        if name not in places:
            raise ConfigError(f"class {item.name!r} has no counterpart; set class_map.{item.name} to one of {', '.join(places)}")
        table[place] = places[name]
    return table


def lookup_table(source: DatasetSpec, class_map: Mapping[str, str], target: DatasetSpec) -> NDArray[np.unsignedinteger[Any]]:
    """A table to index with a stored mask: class indices of `source` become those of `target`, its ignore value the target's.

    Values that are neither become the ignore value as well: ingest has refused or mapped them, so none is left.
    """
    wide = max(target.ignore_index, target.num_classes) > 255
    table: NDArray[np.unsignedinteger[Any]] = np.full(65536, target.ignore_index, np.uint16 if wide else np.uint8)
    table[: source.num_classes] = index_table(source.classes, class_map, target.classes)
    return table
