from __future__ import annotations

import numpy as np
import pytest
import torch

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import generalised_dice
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, regions, spec_of, sure


def built(spec=None, **options):
    spec = spec or spec_of()
    return generalised_dice.build(generalised_dice.Config(**options), spec, [1] * spec.num_classes)


def numpy_generalised_dice(logits, target, *, per_image, power, absent, left_out=()):
    """As the formula reads: one ratio over all classes, for each image or the batch."""
    costs = []
    for p, t in regions(logits, target, per_image=per_image):
        g = np.eye(p.shape[1])[t]
        kept = [index for index in range(p.shape[1]) if index not in left_out]
        volume = g.sum(0)
        weights = np.zeros(p.shape[1])
        weights[volume > 0] = 1 / volume[volume > 0] ** power
        if absent:
            weights[volume == 0] = weights.max()
        above = sum(weights[index] * (p[:, index] * g[:, index]).sum() for index in kept)
        below = sum(weights[index] * (p[:, index] + g[:, index]).sum() for index in kept)
        costs.append(1 - 2 * above / below)
    return np.mean(costs)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize(("weighting", "power"), [("square", 2), ("simple", 1), ("uniform", 0)])
def test_generalised_dice_is_what_numpy_computes(per_image, classes, weighting, power):
    logits, target = random_case()
    loss = built(per_image=per_image, classes=classes, weighting=weighting)
    expected = numpy_generalised_dice(logits, target, per_image=per_image, power=power, absent=classes == "all")
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_a_worked_example_of_the_papers_formula():
    """Section 2.1. Foreground p = 0.8, 0.6, 0.1 over g = 1, 0, 0: w = 1 and, of the background, 1 / 2^2.

    GDL = 1 - 2 (0.8 + (0.4 + 0.9) / 4) / (1.5 + 1 + (1.5 + 2) / 4) = 1 - 2.25 / 3.375 = 1 / 3.
    """
    p = torch.tensor([0.8, 0.6, 0.1], dtype=torch.float64)
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, 3)
    assert built(spec_of(classes=2))(logits, torch.tensor([[[1, 0, 0]]])).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("options", [{}, {"per_image": True}, {"classes": "all"}])
def test_a_perfect_prediction_costs_nothing(options):
    _, target = random_case()
    assert built(**options)(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


def test_background_and_images_without_labels_are_left_out():
    logits, target = random_case()
    spec = spec_of("background", "b", "c", "d")
    expected = numpy_generalised_dice(logits[1:], target[1:], per_image=True, power=2, absent=False, left_out=[0])
    target[0] = IGNORE
    loss = built(spec, per_image=True, include_background=False)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)
    target[1:] = target[1:].where(target[1:] == IGNORE, 0)  # nothing but background
    assert loss(logits, target).item() == 0


@pytest.mark.parametrize("options", [{"per_image": True}, {"classes": "all"}, {"weighting": "uniform"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(generalised_dice, options)


def test_it_has_weights_of_its_own():
    with pytest.raises(ConfigError, match="weights: unknown setting"):
        configure("losses", Plugin(name="generalised_dice", options={"weights": "median"}))
