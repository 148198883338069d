"""The contract checks find what they are for: each is shown a metric that breaks it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from segtasks.metrics import confusion
from segtasks.testing import metrics


def module(metric_class):
    return SimpleNamespace(Config=confusion.Config, build=lambda config, spec: metric_class(spec, config.exclude))


class LastWins(confusion.ConfusionMatrix):
    def merge(self, other):
        self.matrix, self.images = other.matrix.copy(), other.images


class FirstOfBatch(confusion.ConfusionMatrix):
    def update(self, prediction, truth):
        return super().update(*(array[0] if array.ndim == 3 else array for array in (prediction, truth)))


class CountsIgnored(confusion.ConfusionMatrix):
    def update(self, prediction, truth):
        return super().update(prediction, np.where(truth == self.ignore_index, 0, truth))


class ForgetsState(confusion.ConfusionMatrix):
    def state(self):
        return super().state() | {"ignored_pixels": 0}


class NaNWhenEmpty(confusion.ConfusionMatrix):
    def result(self):
        return super().result() | {"miou": float("nan") if self.matrix.sum() == 0 else 1.0}


class TakesAnything(confusion.ConfusionMatrix):
    def update(self, prediction, truth):
        if prediction.shape != truth.shape:
            return None
        return super().update(prediction, truth)


@pytest.mark.parametrize(
    ("metric_class", "check", "error", "message"),
    [
        (LastWins, metrics.parts_add_up_to_the_whole, AssertionError, "merged"),
        (FirstOfBatch, metrics.a_batch_counts_like_its_images, AssertionError, "a batch scores differently"),
        (CountsIgnored, metrics.ignored_pixels_change_no_score, AssertionError, "at ignored pixels"),
        (ForgetsState, metrics.counts_survive_json_and_pickle, AssertionError, "through JSON"),
        (NaNWhenEmpty, metrics.nothing_counted_is_no_error, ValueError, "JSON compliant"),
        (TakesAnything, metrics.masks_that_do_not_fit_are_data_faults, AssertionError, "no ShapeError"),
    ],
)
def test_a_metric_that_breaks_the_contract_is_found(metric_class, check, error, message):
    with pytest.raises(error, match=message):
        check(module(metric_class))
