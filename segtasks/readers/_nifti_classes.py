"""Classes of labels in NIfTI: from options, from a `dataset.json` (nnU-Net 1 and 2, Medical Segmentation Decathlon), or from the values."""

from __future__ import annotations

import json
import logging
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segtasks.errors import ConfigError, InputError, did_you_mean
from segtasks.readers._describe import voc_color
from segtasks.readers._objects import MOST_CLASSES, is_text
from segtasks.spec import ClassSpec, DatasetSpec, LabelEncoding

log = logging.getLogger(__name__)
description_file = "dataset.json"
IGNORE = "ignore"
_few = 34  # up to so many indices may lie unused between 0 and the largest: a few volumes miss classes


@dataclass(frozen=True)
class Described:
    """What `dataset.json` says. `names` by label value; `ignore` is the value that does not count."""

    name: str = ""
    names: Mapping[int, str] | None = None
    ignore: int | None = None
    channels: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # that it lists, relative to the source


def parse(text: bytes, where: str) -> Described:
    """`InputError` with the place for a file that is no JSON, or says what cannot be."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{where} holds a {type(data).__name__}; needed: an object with labels")
    ending = data.get("file_ending", ".nii.gz")
    if ending not in (".nii.gz", ".nii"):
        raise InputError(f"{where}: file_ending is {ending!r}; needed: .nii.gz or .nii, other files are not read here")
    names, ignore = _labels(data.get("labels"), data.get("regions_class_order"), where)
    listed = [*_listed(data, "training", where), *_listed(data, "test", where)]
    name = str(data.get("name") or "")
    return Described(name if is_text(name) else "", names, ignore, _channels(data, where), tuple(listed))


def spec_of(name: str, described: Described, classes: Sequence[str], labels_map: Mapping[int, str | int]) -> DatasetSpec | None:
    """The spec of what is said; None where nothing is, so that the values have to say it."""
    named = list(classes)
    table: dict[int, int | str] = dict(labels_map)
    if not named and not table and described.names is not None:
        named = [described.names[value] for value in sorted(described.names)]
        table = dict(described.names)
        if described.ignore is not None:
            table[described.ignore] = IGNORE
    if not named and described.names is not None:
        named = [described.names[value] for value in sorted(described.names)]
    if not named:
        named = list(dict.fromkeys(str(target) for _, target in sorted(table.items()) if target != IGNORE))
    if not named:
        return None
    return make_spec(name, named, table)


def make_spec(name: str, names: Sequence[str], table: Mapping[int, int | str]) -> DatasetSpec:
    """`table`: label value to class name, index or `ignore`; empty: values are indices. `ConfigError` for classes that are not there."""
    twice = sorted(one for one, times in Counter(names).items() if times > 1)
    if twice:
        raise ConfigError(f"class names come twice: {', '.join(twice)}")
    if len(names) > MOST_CLASSES:
        raise ConfigError(f"there are {len(names)} classes; needed: {MOST_CLASSES} at most")
    ignore_index = 255 if len(names) <= 255 else 65535
    indices = {value: _index(target, names, ignore_index) for value, target in table.items()}
    values = Counter(indices.values())
    source = {index: value for value, index in indices.items() if values[index] == 1 and index != value}
    specs = tuple(ClassSpec(name=one, color=voc_color(at), source_id=source.get(at)) for at, one in enumerate(names))
    if all(value == index for value, index in indices.items()) and (not indices or len(set(indices) - {ignore_index}) == len(names)):
        encoding = LabelEncoding()
    else:
        encoding = LabelEncoding(kind="value", table=tuple(sorted(indices.items())))
    return DatasetSpec(name=name, classes=specs, ignore_index=ignore_index, label_encoding=encoding)


def infer(name: str, values: set[int], looked_at: int, total: int) -> DatasetSpec:
    """Values are class indices; 0 and one large value (255) are background and foreground. `InputError` for values that are neither."""
    largest = max(values, default=0)
    if len(values - {0}) == 1 and largest > _few:
        spec = make_spec(name, ("background", "foreground"), {0: 0, largest: 1})
    elif min(values, default=0) < 0 or largest > max(_few, 4 * len(values)):
        raise InputError(
            f"the labels' values {sorted(values)[:12]} do not look like class indices; needed: labels_map, for example "
            "{0: background, 10: liver, 77: ignore}"
        )
    else:
        others = ["foreground"] if largest == 1 else [f"class_{at}" for at in range(1, largest + 1)]
        spec = make_spec(name, ["background", *others], {})
    log.info(
        "no classes and no %s: from %d of %d labels with values %s concluded %d classes (%s)",
        description_file, looked_at, total, sorted(values)[:12], spec.num_classes, ", ".join(spec.names[:12]),
    )  # fmt: skip
    return spec


def _index(target: int | str, names: Sequence[str], ignore_index: int) -> int:
    if target == IGNORE:
        return ignore_index
    if isinstance(target, str):
        if target not in names:
            raise ConfigError(f"labels_map names class {target!r}, which is not in classes.{did_you_mean(target, names)}")
        return list(names).index(target)
    if not 0 <= target < len(names):
        raise ConfigError(f"labels_map names index {target}; there are {len(names)} classes")
    return target


def _labels(labels: Any, order: Any, where: str) -> tuple[dict[int, str] | None, int | None]:
    """Names by value: `{"0": "background"}` (version 1) or `{"background": 0, "tumour": [1, 2]}` (version 2, with regions)."""
    if labels is None:
        return None, None
    if not isinstance(labels, dict) or not labels:
        raise InputError(f"{where}: labels is {str(labels)[:80]!r}; needed: value to name, or name to value")
    names: dict[int, str] = {}
    ignore: int | None = None
    regions: list[str] = []
    for key, target in labels.items():
        first_version = isinstance(target, str) and not target.isdecimal()
        name, value = (target, key) if first_version else (key, target)
        if not name or not is_text(name):
            raise InputError(f"{where}: labels has the name {name!r}; needed: a text")
        if isinstance(value, list) and not (len(value) == 1 and _is_whole(value[0])):
            regions.append(name)
            continue
        value = value[0] if isinstance(value, list) else value
        if not _is_whole(value):
            raise InputError(f"{where}: labels has {key!r}: {str(target)[:80]!r}; needed: a whole number and a name")
        if name == IGNORE:
            ignore = int(value)
        elif int(value) in names:
            raise InputError(f"{where}: labels gives {int(value)} two names, {names[int(value)]!r} and {name!r}")
        elif order is not None and int(value) != 0:
            regions.append(name)
        else:
            names[int(value)] = name
    if regions:
        _add_regions(names, regions, order, where)
    if len(set(names.values())) < len(names):
        raise InputError(f"{where}: labels gives two values the same name; needed: names that are unique")
    return names, ignore


def _add_regions(names: dict[int, str], regions: Sequence[str], order: Any, where: str) -> None:
    """nnU-Net paints region after region with the values of `regions_class_order`, so that a value is the last region it is in."""
    if not isinstance(order, list) or len(order) != len(regions) or not all(map(_is_whole, order)):
        raise InputError(
            f"{where}: labels has regions ({', '.join(regions)}), regions_class_order is {order!r}; needed: one value for each of them"
        )
    names.update(zip(map(int, order), regions))


def _channels(data: Mapping[str, Any], where: str) -> tuple[str, ...]:
    found = data.get("channel_names", data.get("modality"))
    if not found:
        return ()
    if not isinstance(found, dict) or not all(_is_whole(key) and isinstance(name, str) for key, name in found.items()):
        raise InputError(f"{where}: the channels are {str(found)[:80]!r}; needed: number to name, for example {{'0': 'CT'}}")
    return tuple(name for _, name in sorted((int(key), name) for key, name in found.items()))


def _listed(data: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Paths of `training` (pairs of image and label) or `test`; nnU-Net 1 lists names without the channel's number."""
    found = data.get(key) or []
    paths: list[Any] = [one.get("image") if isinstance(one, dict) else one for one in found] if isinstance(found, list) else [None]
    if not all(isinstance(path, str) for path in paths):
        raise InputError(f"{where}: {key} is {str(found)[:80]!r}; needed: a list of paths, or of image and label")
    return [posixpath.normpath(path) for path in paths]


def _is_whole(value: Any) -> bool:
    """What a label may hold, as a number or a text."""
    if isinstance(value, str):
        return value.isdecimal() and len(value) < 10
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
