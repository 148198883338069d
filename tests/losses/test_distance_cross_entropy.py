from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from scipy.special import log_softmax

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import cross_entropy, distance_cross_entropy
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0}  # exact in float32; c3 has 1


def built(spec=None, **options):
    spec = spec or spec_of()
    return distance_cross_entropy.build(distance_cross_entropy.Config(**options), spec, [1] * spec.num_classes)


def scipy_penalty(target, penalty, relative=False, w0=10.0, sigma=5.0):
    """phi of one image, class by class."""
    phi = np.zeros(target.shape)
    for index in range(4):
        own, other = target == index, (target != index) & (target != IGNORE)
        if own.any() and other.any():
            distance = distance_transform_edt(~other)
            largest = distance[own].max()
            if penalty == "border":
                term = w0 * np.exp(-(distance**2) / (2 * sigma**2))
            else:
                term = (largest - distance if penalty == "inverted" else distance) / (largest if relative else 1)
            phi[own] = term[own]
    return phi


@pytest.mark.parametrize("fixed", [{}, FIXED])
@pytest.mark.parametrize(
    "options",
    [
        {"penalty": "inverted"},
        {"penalty": "inverted", "relative": True},
        {"penalty": "distance"},
        {"penalty": "distance", "relative": True},
        {"penalty": "border", "w0": 3.0, "sigma": 1.5},
    ],
)
def test_it_is_cross_entropy_times_scipys_distances(options, fixed):
    logits, target = random_case()
    target[:, 1:5, 1:6] = 2  # something with an inside
    weights = [*FIXED.values(), 1.0] if fixed else [1.0] * 4
    log_p, total, norm = log_softmax(logits.numpy(), axis=1), 0.0, 0.0
    for n, y, x in np.ndindex(*target.shape):
        t = int(target[n, y, x])
        if t != IGNORE:
            total -= weights[t] * (1 + scipy_penalty(target[n].numpy(), **options)[y, x]) * log_p[n, t, y, x]
            norm += weights[t]
    loss = built(**options, weights="fixed" if fixed else "none", fixed=fixed)
    assert loss(logits, target).item() == pytest.approx(total / norm, rel=1e-6)


def test_a_worked_example():
    """Truth 0 0 0 1 1: D is 3 2 1 1 2, M is 3 and 2, phi 0 1 2 1 0; each pixel costs ln 2, so 9 of them over 5."""
    logits, target = torch.zeros(1, 2, 1, 5, dtype=torch.float64), torch.tensor([[[0, 0, 0, 1, 1]]])
    spec = spec_of(classes=2)
    assert built(spec).penalty(target[0], target[0] >= 0).tolist() == [[0, 1, 2, 1, 0]]
    assert built(spec)(logits, target).item() == pytest.approx(9 / 5 * math.log(2))
    assert built(spec, penalty="distance")(logits, target).item() == pytest.approx(14 / 5 * math.log(2))
    shares = built(spec, relative=True).penalty(target[0], target[0] >= 0)
    assert shares.flatten().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1 / 2, 0])
    border = built(spec, penalty="border", w0=10, sigma=2).penalty(target[0], target[0] >= 0)
    assert border[0, 2].item() == pytest.approx(10 * math.exp(-1 / 8))


def test_an_image_of_one_class_has_plain_cross_entropy():
    logits = random_case()[0][:1]
    target = torch.full((1, 6, 7), 2)
    target[0, 0] = IGNORE
    plain = cross_entropy.build(cross_entropy.Config(), spec_of(), [1] * 4)
    assert built()(logits, target).item() == pytest.approx(plain(logits, target).item(), rel=1e-12)


@pytest.mark.parametrize("penalty", ["inverted", "distance", "border"])
def test_a_perfect_prediction_costs_nothing(penalty):
    _, target = random_case()
    assert built(penalty=penalty)(sure(target, 4, 200.0), target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{"penalty": "distance", "relative": True}, {"penalty": "border"}, {"weights": "median"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(distance_cross_entropy, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "border", "relative": True}, "needed: `relative: false`"),
        ({"penalty": "unet"}, "Input should be 'inverted'"),
        ({"sigma": 0}, "greater than 0"),
    ],
)
def test_wrong_options_are_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("losses", Plugin(name="distance_cross_entropy", options=options))
