from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import cross_entropy, ohem_cross_entropy
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import random_case, spec_of, sure
from tests.losses.test_topk_cross_entropy import numpy_losses


def built(classes=4, **options):
    return ohem_cross_entropy.build(ohem_cross_entropy.Config(**options), spec_of(classes=classes), [1] * classes)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("min_kept", [0, 0.25, 7, 1000])
def test_pixels_below_the_threshold_count_and_at_least_min_kept(threshold, min_kept):
    """As MMSegmentation's sampler: the threshold rises until enough pixels are below it."""
    logits, target = random_case()
    losses, _ = numpy_losses(logits, target)
    p = np.sort(np.exp(-losses))
    least = round(min_kept * len(p)) if min_kept < 1 else min(min_kept * len(target), len(p))
    kept = p[: max(least, int((p < threshold).sum()))]
    expected = -np.log(kept).mean() if len(kept) else 0.0
    assert built(threshold=threshold, min_kept=min_kept)(logits, target).item() == pytest.approx(expected, rel=1e-9)


def test_class_weights_weigh_the_kept_pixels():
    logits, target = random_case()
    weights = np.array([0.25, 2.0, 0.5, 1.0])
    losses, t = numpy_losses(logits, target)
    kept = np.exp(-losses) < 0.4
    expected = (losses * weights[t])[kept].sum() / weights[t][kept].sum()
    loss = built(threshold=0.4, min_kept=0, weights="fixed", fixed={"c0": 0.25, "c1": 2.0, "c2": 0.5})
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_a_worked_example():
    """Four pixels of class 0 with p = 1/2, 1/3, 1/4, 1/5. Below 0.3 are two; at least three are wanted."""
    logits = torch.tensor([[[[0.0, 0.0, 0.0, 0.0]], [[math.log(n) for n in (1, 2, 3, 4)]]]], dtype=torch.float64)
    target = torch.zeros(1, 1, 4, dtype=torch.int64)
    assert built(2, threshold=0.3, min_kept=0)(logits, target).item() == pytest.approx((math.log(4) + math.log(5)) / 2)
    three = (math.log(3) + math.log(4) + math.log(5)) / 3
    assert built(2, threshold=0.3, min_kept=3)(logits, target).item() == pytest.approx(three)
    assert built(2, threshold=0.3, min_kept=0.75)(logits, target).item() == pytest.approx(three)


def test_min_kept_of_every_pixel_is_cross_entropy():
    logits, target = random_case()
    plain = cross_entropy.build(cross_entropy.Config(), spec_of(), [1] * 4)
    assert built(min_kept=10**6)(logits, target).item() == pytest.approx(plain(logits, target).item(), rel=1e-12)


def test_nothing_hard_and_nothing_to_keep_costs_nothing():
    _, target = random_case()
    logits = sure(target, 4).requires_grad_()
    value = built(min_kept=0)(logits, target)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0
    assert built()(logits, target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{"min_kept": 5}, {"threshold": 0.4, "weights": "inverse"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(ohem_cross_entropy, options)


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 1.1}, {"min_kept": -1}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        configure("losses", Plugin(name="ohem_cross_entropy", options=options))
