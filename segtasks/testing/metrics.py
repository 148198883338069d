"""The contract of a metric: parts add up to the whole, counts survive JSON, ignored pixels count nowhere."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import LabelError, ShapeError
from segtasks.metrics._base import Metric
from segtasks.testing._base import check_config, made_spec, small_config

Options = Mapping[str, Any] | None
Mask = NDArray[np.uint8]
CLASSES = 4
IGNORE = 255


def check_metric(module: ModuleType, options: Options = None) -> None:
    """All checks. `options`: the configuration to check; none: the module's `SMALL`, or its defaults."""
    for check in QUICK:
        check(module, options)


def config_is_a_config(module: ModuleType, options: Options = None) -> None:
    """`Config` can be written into a recipe and shown in a form."""
    check_config(module.Config)


def parts_add_up_to_the_whole(module: ModuleType, options: Options = None) -> None:
    """Images counted apart and merged, in another order, score as when counted together."""
    whole, parts = _build(module, options), [_build(module, options) for _ in range(3)]
    for index, (prediction, truth) in enumerate(_images(7)):
        whole.update(prediction, truth)
        parts[index % 3].update(prediction, truth)
    total = _build(module, options)
    for part in reversed(parts):
        total.merge(part)
    assert total.result() == whole.result(), f"merged: {total.result()}\ntogether: {whole.result()}"


def a_batch_counts_like_its_images(module: ModuleType, options: Options = None) -> None:
    """N x H x W in one call, of any integer type, equals N calls."""
    images = _images(3)
    one_by_one, batched = _build(module, options), _build(module, options)
    for prediction, truth in images:
        one_by_one.update(prediction, truth)
    batched.update(np.stack([prediction for prediction, _ in images]).astype(np.int64), np.stack([truth for _, truth in images]))
    assert batched.result() == one_by_one.result(), "a batch scores differently from its images"


def counts_survive_json_and_pickle(module: ModuleType, options: Options = None) -> None:
    """`state` through JSON into an empty metric, and pickle, give the same result; the result itself is JSON without NaN."""
    metric, again = _build(module, options), _build(module, options)
    for prediction, truth in _images(2):
        metric.update(prediction, truth)
    again.merge_state(json.loads(json.dumps(metric.state(), allow_nan=False)))
    assert again.result() == metric.result(), "counts change on their way through JSON"
    assert pickle.loads(pickle.dumps(metric)).result() == metric.result(), "counts change on their way through pickle"  # noqa: S301
    assert json.loads(json.dumps(metric.result(), allow_nan=False)) == metric.result(), "the result is not plain JSON"
    assert metric.result().get("policy"), "the result does not say in `policy` what was counted"


def ignored_pixels_change_no_score(module: ModuleType, options: Options = None) -> None:
    """Whatever is predicted where the truth is the ignore value, the result is the same."""
    first, second = _build(module, options), _build(module, options)
    for prediction, truth in _images(2):
        first.update(prediction, truth)
        second.update(np.where(truth == IGNORE, (prediction + 1) % CLASSES, prediction).astype(np.uint8), truth)
    assert first.result() == second.result(), "predictions at ignored pixels change the result"


def nothing_counted_is_no_error(module: ModuleType, options: Options = None) -> None:
    """An empty metric, and one that saw only ignored pixels, have a result without NaN."""
    metric = _build(module, options)
    json.dumps(metric.result(), allow_nan=False)
    metric.update(np.zeros((3, 4), np.uint8), np.full((3, 4), IGNORE, np.uint8))
    json.dumps(metric.result(), allow_nan=False)


def masks_that_do_not_fit_are_data_faults(module: ModuleType, options: Options = None) -> None:
    """Another size is a `ShapeError`, an unknown value a `LabelError`, and neither counts anything."""
    metric = _build(module, options)
    before = metric.state()
    mask = np.zeros((3, 4), np.uint8)
    for expected, prediction, truth in (
        (ShapeError, mask, np.zeros((4, 3), np.uint8)),
        (LabelError, mask, np.full((3, 4), CLASSES, np.uint8)),
        (LabelError, np.full((3, 4), CLASSES, np.uint8), mask),
    ):
        try:
            metric.update(prediction, truth)
        except expected:
            pass
        else:
            raise AssertionError(f"no {expected.__name__} for a prediction and truth that do not fit")
    assert metric.state() == before, "masks that were refused left counts behind"


QUICK: tuple[Callable[..., None], ...] = (
    config_is_a_config,
    parts_add_up_to_the_whole,
    a_batch_counts_like_its_images,
    counts_survive_json_and_pickle,
    ignored_pixels_change_no_score,
    nothing_counted_is_no_error,
    masks_that_do_not_fit_are_data_faults,
)


def _build(module: ModuleType, options: Options) -> Metric:
    metric: Metric = module.build(small_config(module, options), made_spec(CLASSES, IGNORE))
    return metric


def _images(count: int) -> list[tuple[Mask, Mask]]:
    """Predictions and truths of 16x20 pixels: random blocks, an eighth of the truth ignored, the last class never in the truth."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        truth = np.kron(random.integers(0, CLASSES - 1, (4, 5)), np.ones((4, 4))).astype(np.uint8)
        prediction = np.where(random.random(truth.shape) < 0.2, random.integers(0, CLASSES, truth.shape), truth).astype(np.uint8)
        truth[random.random(truth.shape) < 1 / 8] = IGNORE
        prediction[truth == IGNORE] = 0
        images.append((prediction, truth))
    return images
