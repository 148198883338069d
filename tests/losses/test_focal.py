from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import cross_entropy, focal, weighted_cross_entropy
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0, "c3": 1.0}  # exact in float32


def built(**options):
    return focal.build(focal.Config(**options), spec_of(), [1, 1, 1, 1])


def numpy_focal(logits, target, gamma, weights):
    log_p = log_softmax(logits.numpy(), axis=1)
    total = norm = 0.0
    for n, y, x in np.ndindex(*target.shape):
        t = int(target[n, y, x])
        if t != IGNORE:
            total += weights[t] * -((1 - np.exp(log_p[n, t, y, x])) ** gamma) * log_p[n, t, y, x]
            norm += weights[t]
    return total / norm


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("fixed", [{}, FIXED])
def test_focal_loss_is_what_numpy_computes_pixel_by_pixel(gamma, fixed):
    logits, target = random_case()
    loss = built(gamma=gamma, weights="fixed" if fixed else "none", fixed=fixed)
    expected = numpy_focal(logits, target, gamma, list(fixed.values()) or [1] * 4)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_gamma_0_is_cross_entropy_with_and_without_weights():
    logits, target = random_case()
    plain = cross_entropy.build(cross_entropy.Config(), spec_of(), [1] * 4)
    assert built(gamma=0)(logits, target).item() == plain(logits, target).item()
    weighted = weighted_cross_entropy.build(weighted_cross_entropy.Config(weights="fixed", fixed=FIXED), spec_of(), [1] * 4)
    assert built(gamma=0, weights="fixed", fixed=FIXED)(logits, target).item() == weighted(logits, target).item()


@pytest.mark.parametrize(("p", "times"), [(0.9, 100), (0.968, 1000), (0.5, 4)])
def test_the_papers_examples_of_gamma_2(p, times):
    """Section 3.2: against cross-entropy an example of p = 0.9 costs 100 times less, of 0.968 1000 times, of 0.5 4 times."""
    logits = torch.log(torch.tensor([p, 1 - p], dtype=torch.float64)).view(1, 2, 1, 1)
    loss = focal.build(focal.Config(gamma=2), spec_of(classes=2), [1, 1])
    assert -np.log(p) / loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64)).item() == pytest.approx(times, rel=0.03)


def test_a_perfect_prediction_costs_nothing():
    _, target = random_case()
    assert built()(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_certain_predictions_have_finite_gradients_at_every_gamma(gamma):
    """x^gamma has an infinite slope at 0 for gamma < 1, and float32 rounds a sure pixel's 1 - p to 0."""
    _, target = random_case()
    logits = sure(target, 4, 500.0).float().requires_grad_()
    built(gamma=gamma)(logits, target).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("options", [{"gamma": 0.5}, {"gamma": 5, "weights": "median"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(focal, options)


@pytest.mark.parametrize(("options", "message"), [({"gamma": -1}, "greater than or equal to 0"), ({"alpha": 0.25}, "unknown setting")])
def test_wrong_options_are_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("losses", Plugin(name="focal", options=options))
