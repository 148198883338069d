"""What a metric is: `update` counts, `merge` adds counts up, `result` scores. Two halves merged equal the whole, in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]


class Metric(Protocol):
    """Picklable. Masks are class indices (or the ignore value) of any integer type, H x W or N x H x W."""

    def update(self, prediction: IntArray, truth: IntArray) -> Any:
        """Count one image or a batch. Raises `DataFault`s: `ShapeError` where the sizes differ, `LabelError` for unknown values."""
        ...

    def merge(self, other: Self) -> None:
        """Add what another metric of the same configuration and spec counted."""
        ...

    def state(self) -> dict[str, Any]:
        """The counts as JSON."""
        ...

    def merge_state(self, state: Mapping[str, Any]) -> None:
        """Add counts that `state` gave."""
        ...

    def result(self) -> dict[str, Any]:
        """The scores as JSON: undefined ones are null, and `policy` says in words what was counted."""
        ...
