"""A case in memory: planes of its channels as codes of 8 or 16 bits, and of its label as class indices.

Voxels are kept as the files store them; only what is asked for is scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.volume import Volume, VolumeHeader
from segtasks.errors import LabelError
from segtasks.readers._labels import shown, to_indices
from segtasks.spec import DatasetSpec

Axis = Literal["axial", "coronal", "sagittal"]
AXES: dict[Axis, tuple[int, str]] = {"axial": (0, "z"), "coronal": (1, "y"), "sagittal": (2, "x")}  # the axis of Z, Y, X that is cut
Overlap = Literal["refuse", "first", "last"]
_whole_within = 1e-3  # a header's slope makes 0.99999997 of a 1
_grid_within = 0.1  # voxels: tools round affines differently


@dataclass(frozen=True)
class Channel:
    """One channel of a volume and the intensities that become the lowest and the highest code."""

    volume: Volume
    index: int
    low: float
    high: float

    def codes(self, axis: Axis, at: int, levels: int) -> tuple[NDArray[np.uint16], int]:
        """A plane as codes 0..levels, HxW, and how many of its voxels are no finite number: NaN and -inf become 0, +inf `levels`."""
        values = self.volume.values(_plane(self.volume.stored[self.index], axis, at)).astype(np.float64)
        finite = np.isfinite(values)
        values = np.nan_to_num(values, nan=self.low, posinf=self.high, neginf=self.low)
        span = self.high - self.low
        scaled = (np.clip(values, self.low, self.high) - self.low) * (levels / span) if span > 0 else np.zeros(values.shape)
        return np.rint(scaled).astype(np.uint16), int(finite.size - np.count_nonzero(finite))


def channel(volume: Volume, index: int, window: tuple[float, float] | None, percentiles: tuple[float, float]) -> Channel:
    """By the window (level, width), or the percentiles of the volume's finite voxels; a channel without any becomes 0 throughout."""
    if window is not None:
        level, width = window
        return Channel(volume, index, level - width / 2, level + width / 2)
    stored = volume.stored[index]
    finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored.flatten()
    if not finite.size:
        return Channel(volume, index, 0.0, 0.0)
    low, high = sorted(float(volume.values(np.asarray(edge))) for edge in np.percentile(finite, percentiles, overwrite_input=True))
    return Channel(volume, index, low, high)


@dataclass(frozen=True)
class Labels:
    """A label volume. Several channels are one-hot: channel n is value n + 1, and 0 is where none is set.

    Where every voxel has exactly one channel, the background is one of them and channel n is value n.
    """

    volume: Volume = field(repr=False)
    path: str
    overlap: Overlap

    def plane(self, axis: Axis, at: int, spec: DatasetSpec) -> NDArray[Any]:
        """Class indices HxW, uint8 or uint16. `LabelError` for values that are no class, and for one-hot channels that overlap."""
        return to_indices(self.values(axis, at), spec, self.path)

    def values(self, axis: Axis, at: int) -> NDArray[Any]:
        """The plane's label values before they are mapped to classes."""
        planes = [self._whole(_plane(stored, axis, at)) for stored in self.volume.stored]
        return planes[0] if len(planes) == 1 else self._from_one_hot(np.stack(planes))

    def all_values(self) -> set[int]:
        """Of the whole volume; of one-hot channels also those that are nowhere set."""
        channels = self.volume.header.channels
        found = set(range(channels + (0 if self._is_complete else 1))) if channels > 1 else set()
        for at in range(self.volume.header.shape[0]) if channels == 1 else ():
            found |= {int(value) for value in np.unique(self.values("axial", at))}
        return found

    def _whole(self, stored: NDArray[Any]) -> NDArray[Any]:
        values = self.volume.values(stored)
        if values.dtype.kind != "f":
            return values
        with np.errstate(invalid="ignore"):
            whole = np.rint(values)
            bad = ~(np.abs(values - whole) <= _whole_within)
        if bad.any():
            strange = np.unique(values[bad])[:shown].tolist()
            raise LabelError(f"{self.path} has values that are no label: {strange}; needed: whole numbers, within {_whole_within}")
        found: NDArray[Any] = whole
        return found

    def _from_one_hot(self, planes: NDArray[Any]) -> NDArray[np.uint16]:
        strange = np.setdiff1d(planes, (0, 1))
        if strange.size:
            raise LabelError(f"{self.path} has {len(planes)} channels with values {strange[:shown].tolist()}; needed: 0 and 1 (one-hot)")
        chosen = planes != 0
        number = np.arange(len(planes), dtype=np.uint16) + np.uint16(0 if self._is_complete else 1)
        several = np.count_nonzero(chosen.sum(axis=0) > 1)
        if several and self.overlap == "refuse":
            raise LabelError(
                f"{self.path} has one-hot channels that overlap in {several} voxels of this slice, and a mask has one class a pixel; "
                "say which wins with overlap: last (or first)"
            )
        order = range(len(planes)) if self.overlap == "last" else reversed(range(len(planes)))
        found = np.zeros(planes.shape[1:], np.uint16)
        for at in order:
            found[chosen[at]] = number[at]
        return found

    @cached_property
    def _is_complete(self) -> bool:
        """Whether every voxel has exactly one channel: then the background is one of them."""
        return all(bool((np.rint(self.volume.values(plane)).sum(axis=0) == 1).all()) for plane in np.moveaxis(self.volume.stored, 1, 0))


def differs(one: VolumeHeader, other: VolumeHeader) -> str:
    """How two grids differ, for a message; "" where they are one: the same shape, and corners that lie within a tenth of a voxel."""
    if one.shape != other.shape:
        sides = ["x".join(map(str, header.shape[::-1])) for header in (one, other)]
        return f"{sides[0]} and {sides[1]} (X x Y x Z, turned to RAS)"
    corners = np.array([[x, y, z, 1] for x in (0, one.shape[2]) for y in (0, one.shape[1]) for z in (0, one.shape[0])], np.float64)
    apart = np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1).max()
    if apart <= _grid_within * min(one.spacing):
        return ""
    return f"affines {_rounded(one.affine)} and {_rounded(other.affine)}, {apart:.3g} mm apart"


def _plane(stored: NDArray[Any], axis: Axis, at: int) -> NDArray[Any]:
    """A view; `np.take` would copy the whole volume first, as it lies in another order."""
    return stored[(slice(None),) * AXES[axis][0] + (at,)]


def _rounded(affine: NDArray[np.float64]) -> Sequence[Sequence[float]]:
    rows: list[list[float]] = np.round(affine[:3], 3).tolist()
    return rows
