"""A part of a georeferenced image has a place of its own on the map: the facts `crs`, `transform` and `bounds` follow its pixels.

`transform` is rasterio's affine as JSON [a, b, c, d, e, f]: x = a column + b row + c, y = d column + e row + f, of pixel corners.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Where an axis of the result is in the source, in pixels: source = `scale` * result + `offset`; `length` pixels long."""

    length: int
    offset: float = 0.0
    scale: float = 1.0


def follow(facts: Mapping[str, str], rows: Axis, columns: Axis) -> dict[str, str]:
    """The facts of a part. Those of an image that is not georeferenced stay as they are."""
    place = _transform(facts)
    if place is None:
        return dict(facts)
    a, b, c, d, e, f = place
    moved = [
        a * columns.scale,
        b * rows.scale,
        a * columns.offset + b * rows.offset + c,
        d * columns.scale,
        e * rows.scale,
        d * columns.offset + e * rows.offset + f,
    ]
    corners = [(column, row) for column in (0, columns.length) for row in (0, rows.length)]
    xs = [moved[0] * column + moved[1] * row + moved[2] for column, row in corners]
    ys = [moved[3] * column + moved[4] * row + moved[5] for column, row in corners]
    return {**facts, "transform": json.dumps(moved), "bounds": json.dumps([min(xs), min(ys), max(xs), max(ys)])}


def _transform(facts: Mapping[str, str]) -> list[float] | None:
    if "crs" not in facts or "transform" not in facts:
        return None
    try:
        found = json.loads(facts["transform"])
    except ValueError:  # another reader's word for something else
        return None
    numbers = isinstance(found, list) and len(found) == 6 and all(isinstance(one, (int, float)) for one in found)
    return [float(one) for one in found] if numbers else None
