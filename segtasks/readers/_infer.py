"""Classes of a folder without `dataset.yaml`, from the values of some of its masks; what was concluded is logged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np

from segtasks.codecs.mask import decode_label, read_palette
from segtasks.errors import DataFault, InputError
from segtasks.readers._describe import Color, voc_color
from segtasks.readers._labels import is_grey, pack_colors
from segtasks.spec import ClassSpec, DatasetSpec, LabelEncoding

log = logging.getLogger(__name__)
_BINARY = ("background", "foreground")
_few = 34  # up to so many indices may lie unused between 0 and the largest: small samples miss classes


def infer_spec(masks: Iterable[tuple[str, bytes]], total: int, name: str, max_pixels: int) -> DatasetSpec:
    """Classes from the values in `masks`, some of `total`.

    Exactly {0, 255} means background and foreground (255 is a class there, as in most binary data sets); otherwise values are
    class indices and 255 is ignored. `InputError` for colour masks and for values that look like no indices.
    """
    values: set[int] = set()
    colors: Counter[int] = Counter()
    palette: list[Color] = []
    seen = 0
    for path, data in masks:
        try:
            stored = decode_label(data, max_pixels)
            palette = palette or read_palette(data, max_pixels)
        except DataFault as fault:
            log.warning("%s does not help to infer the classes: %s", path, fault)
            continue
        seen += 1
        if is_grey(stored):
            values.update(int(value) for value in np.unique(stored if stored.ndim == 2 else stored[:, :, 0]))
        else:
            codes, pixels = np.unique(pack_colors(stored), return_counts=True)
            colors.update(dict(zip(codes.tolist(), pixels.tolist())))
    if not seen:
        raise InputError(f"none of the masks looked at can be decoded, so no classes are known at {name}; write them into dataset.yaml")
    if colors:
        raise InputError(_ask_for_colors(colors))
    spec = _from_values(values, palette, name)
    concluded = ", ".join(spec.names[:12]) + (", ..." if spec.num_classes > 12 else "")
    meaning = "255 is foreground" if spec.label_encoding.kind == "value" else f"{spec.ignore_index} is ignored"
    log.info(
        "no dataset.yaml: from %d of %d masks with values %s concluded %d classes (%s); %s",
        seen, total, _shortened(values), spec.num_classes, concluded, meaning,
    )  # fmt: skip
    return spec


def _from_values(values: set[int], palette: list[Color], name: str) -> DatasetSpec:
    if values == {0, 255}:
        classes = tuple(ClassSpec(name=text, color=color) for text, color in zip(_BINARY, ((0, 0, 0), (255, 255, 255))))
        return DatasetSpec(name=name, classes=classes, label_encoding=LabelEncoding(kind="value", table=((0, 0), (255, 1))))
    indices = values - {255} or {0}
    largest = max(indices)
    if min(indices) < 0 or largest > max(_few, 4 * len(indices)) or largest > 1023:
        raise InputError(
            f"the masks' values {_shortened(values)} do not look like class indices; needed: a dataset.yaml with classes and "
            "value_map, for example {classes: [road, car], value_map: {7: road, 26: car}}"
        )
    count = largest + 1
    named = _BINARY if indices == {0, 1} else [f"class_{index}" for index in range(count)]
    ramp = all(color[0] == color[1] == color[2] for color in palette[:count])
    colors = palette if len(palette) >= count and not ramp else [voc_color(index) for index in range(count)]
    classes = tuple(ClassSpec(name=text, color=color) for text, color in zip(named, colors))
    return DatasetSpec(name=name, classes=classes, ignore_index=255 if count <= 255 else 65535)


def _ask_for_colors(colors: Counter[int]) -> str:
    found = [f"[{code >> 16}, {code >> 8 & 255}, {code & 255}]" for code, _ in colors.most_common(12)]
    more = f" and {len(colors) - 12} more" if len(colors) > 12 else ""
    return (
        f"the masks are in colour: {', '.join(found)}{more}; needed: a dataset.yaml that names them, for example "
        f"{{classes: [{{name: road, color: {found[0]}}}, ...], ignore: [[0, 0, 0]]}}"
    )


def _shortened(values: set[int]) -> str:
    ordered = sorted(values)
    return str(ordered) if len(ordered) <= 16 else f"[{', '.join(map(str, ordered[:12]))}, ..., {ordered[-1]}] ({len(ordered)} values)"
