"""The geometry of line charts, as numbers for a template to draw: no colour, no text layout beyond tick labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in the drawing and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """One series in a box from (left, top) to (right, bottom), in units of the drawing."""

    title: str
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    lines: tuple[str, ...]  # the `points` of SVG polylines, one for each stretch without a gap
    dots: tuple[tuple[float, float, str], ...]  # x, y and what the point says
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    last: str  # the last value, for the heading


def line_chart(
    title: str,
    values: Sequence[tuple[int, float | None]],
    *,
    width: float = 360,
    height: float = 210,
    zero: bool = False,
    bridge: bool = False,
) -> LineChart | None:
    """Values by epoch; no value at all gives no chart. `zero`: the axis starts at 0. A none leaves a gap in the line, or, with `bridge`,
    none: validation every few epochs is one line, a loss that was NaN is not.
    """
    known = [(epoch, value) for epoch, value in values if value is not None]
    if not known:
        return None
    left, top, right, bottom = 52.0, 10.0, width - 12, height - 28
    first, last = values[0][0], values[-1][0]
    low, high = min(value for _, value in known), max(value for _, value in known)
    y_ticks = nice_ticks(min(low, 0) if zero else low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def x_of(epoch: int) -> float:
        return left + (right - left) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    stretches: list[list[Point]] = [[]]
    for epoch, value in known if bridge else values:
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append((x_of(epoch), y_of(value)))
    return LineChart(
        title=title,
        width=width,
        height=height,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        lines=tuple(" ".join(f"{x:.1f},{y:.1f}" for x, y in stretch) for stretch in stretches if stretch),
        dots=tuple((x_of(epoch), y_of(value), f"epoch {epoch}: {value:.4g}") for epoch, value in known),
        x_ticks=tuple(Tick(x_of(epoch), str(epoch)) for epoch in _epoch_ticks(first, last)),
        y_ticks=tuple(Tick(y_of(value), f"{value:g}") for value in y_ticks),
        last=f"{known[-1][1]:.4g}",
    )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten apart) that hold `low` and `high` between them."""
    if high <= low:
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 2, low + abs(low) / 2)
    rough = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(start, stop + 1)]


def _epoch_ticks(first: int, last: int) -> list[int]:
    if last == first:
        return [first]
    step = max(1, int(nice_ticks(0, (last - first))[1]))
    ticks = [first, *(epoch for epoch in range(step * (first // step + 1), last + 1, step) if epoch - first >= step / 2)]
    return ticks if last - ticks[-1] < step / 2 else [*ticks, last]
