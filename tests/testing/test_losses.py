"""The contract checks find what they are for: each is shown a loss that breaks it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional as F

from segtasks.config import Config
from segtasks.testing import losses


def module(function):
    return SimpleNamespace(Config=Config, build=lambda config, spec, class_pixels: function)


def mean_of_nothing(logits, target):
    return F.cross_entropy(logits, target, ignore_index=losses.IGNORE)  # 0 / 0 when all is ignored


def counts_ignored(logits, target):
    return F.cross_entropy(logits, target.where(target != losses.IGNORE, 0))


def not_reduced(logits, target):
    return F.cross_entropy(logits, target, ignore_index=losses.IGNORE, reduction="none")


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.01


def wrong_gradient(logits, target):
    return WrongGradient.apply(F.cross_entropy(logits, target, ignore_index=losses.IGNORE))


def logarithm_of_softmax(logits, target):
    valid = target != losses.IGNORE
    p = logits.softmax(1).gather(1, target.where(valid, 0).unsqueeze(1)).squeeze(1)
    return -(p.log() * valid).sum() / valid.sum().clamp_min(1)


def upside_down(logits, target):
    return F.cross_entropy(-logits, target, ignore_index=losses.IGNORE)


@pytest.mark.parametrize(
    ("function", "check", "message"),
    [
        (mean_of_nothing, losses.a_batch_of_ignored_pixels_costs_zero, "costs nan"),
        (counts_ignored, losses.ignored_pixels_change_nothing, "Scalars are not close"),
        (not_reduced, losses.is_a_finite_scalar_with_gradient, "needed: a scalar"),
        (logarithm_of_softmax, losses.extreme_logits_in_bfloat16_stay_finite, "inf"),
        (upside_down, losses.a_better_prediction_costs_less, "predictions cost"),
    ],
)
def test_a_loss_that_breaks_the_contract_is_found(function, check, message):
    with pytest.raises(AssertionError, match=message):
        check(module(function))


def test_a_wrong_gradient_is_found():
    with pytest.raises(GradcheckError):
        losses.gradient_equals_finite_differences(module(wrong_gradient))


def test_a_loss_that_holds_a_factor_constant_may_say_so():
    stops = SimpleNamespace(**vars(module(wrong_gradient)), STOPS_GRADIENT=True)
    losses.gradient_equals_finite_differences(stops)


def test_a_loss_of_two_classes_is_shown_two_classes():
    shapes = []

    def build(config, spec, class_pixels):
        assert spec.num_classes == len(class_pixels) == 2
        return lambda logits, target: shapes.append(logits.shape[1]) or F.cross_entropy(logits, target, ignore_index=losses.IGNORE)

    two = SimpleNamespace(Config=Config, build=build, CLASSES=2)
    losses.is_a_finite_scalar_with_gradient(two)
    losses.a_better_prediction_costs_less(two)
    assert set(shapes) == {2}
