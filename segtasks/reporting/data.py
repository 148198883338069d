"""What a report shows, as plain values. Sections without data say so instead of being empty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.metrics.confusion import Result
from segtasks.spec import DatasetSpec

Pixels = NDArray[np.uint8]
Mask = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Fact:
    """One line of provenance: what made the numbers. `code`: an identifier, shown in monospace."""

    label: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class StageCoverage:
    """One stage on the way from the source to the score: a row is done, quarantined with a reason, or says that its image has none."""

    stage: str
    output: str  # reference, url@snapshot
    recipe: str  # id
    rows: int
    done: int
    quarantined: int
    reasons: Mapping[str, int] = field(default_factory=dict)  # error type -> rows
    empty: int = 0  # images that made no row (no object was found)

    def __post_init__(self) -> None:
        if self.done + self.quarantined + self.empty != self.rows:
            raise ValueError(f"{self.stage}: {self.done} done and {self.quarantined} quarantined are not {self.rows} rows")


@dataclass(frozen=True)
class Quarantined:
    """One row that was refused."""

    stage: str
    image_id: str
    error_type: str
    error: str


@dataclass(frozen=True)
class Epoch:
    """One epoch of training. A value that was not measured, or is not finite, is none."""

    epoch: int
    loss: float | None = None
    lr: float | None = None
    val_miou: float | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Epoch:
        """From a row of the training history; other keys are left alone."""
        return cls(epoch=int(row["epoch"]), loss=_finite(row.get("loss")), lr=_finite(row.get("lr")), val_miou=_finite(row.get("val_miou")))


@dataclass(frozen=True)
class Example:
    """One image with its truth and prediction: pixels H x W x 3, masks H x W of class indices and the ignore value."""

    image_id: str
    miou: float | None
    image: Pixels
    truth: Mask
    prediction: Mask

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.truth.shape != size or self.prediction.shape != size:
            raise ValueError(
                f"{self.image_id}: image {self.image.shape}, truth {self.truth.shape}, prediction {self.prediction.shape}; "
                "needed: H x W x 3 and two H x W"
            )


@dataclass(frozen=True)
class ReportData:
    """Everything on the page. The same data gives the same page, byte by byte: a date appears only if `created` names one."""

    title: str
    spec: DatasetSpec
    metrics: Result
    subtitle: str = ""
    facts: tuple[Fact, ...] = ()
    stages: tuple[StageCoverage, ...] = ()
    history: tuple[Epoch, ...] = ()
    best: tuple[Example, ...] = ()
    worst: tuple[Example, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()  # the first few
    quarantined_total: int = 0
    created: str = ""

    def __post_init__(self) -> None:
        if self.spec.names != [item.name for item in self.metrics.classes]:
            raise ValueError(f"the spec's classes {self.spec.names} are not the metrics' {[item.name for item in self.metrics.classes]}")
        if self.quarantined_total < len(self.quarantined):
            raise ValueError(f"{len(self.quarantined)} quarantined rows are listed, more than the total of {self.quarantined_total}")


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
