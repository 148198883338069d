"""Small worlds for the tests of reports."""

from __future__ import annotations

import numpy as np

from segtasks.metrics import confusion
from segtasks.reporting.data import Example, ReportData
from segtasks.spec import ClassSpec, DatasetSpec

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 200, 0)]


def spec_of(*names: str, ignore_index: int = 255) -> DatasetSpec:
    classes = tuple(ClassSpec(name=name, color=COLORS[index % len(COLORS)]) for index, name in enumerate(names))
    return DatasetSpec(name="made", classes=classes, ignore_index=ignore_index)


def scored(spec: DatasetSpec, prediction, truth, **options) -> confusion.Result:
    metric = confusion.build(confusion.Config(**options), spec)
    metric.update(np.asarray(prediction, np.uint16), np.asarray(truth, np.uint16))
    return metric.scores()


def example(image_id: str = "val/a.png", size: tuple[int, int] = (20, 30)) -> Example:
    image = np.zeros((*size, 3), np.uint8)
    truth = np.zeros(size, np.uint8)
    truth[:, size[1] // 2 :] = 1
    prediction = np.zeros(size, np.uint8)
    return Example(image_id, 0.25, image, truth, prediction)


def report(**changes) -> ReportData:
    spec = changes.pop("spec", None) or spec_of("road", "sky")
    metrics = changes.pop("metrics", None) or scored(spec, [[0, 0, 1, 1]], [[0, 0, 1, 0]])
    return ReportData(**{"title": "A report", "spec": spec, "metrics": metrics, **changes})
