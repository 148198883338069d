from __future__ import annotations

import pytest
import torch

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import sensitivity_specificity
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, mean_over_classes, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0, "c3": 1.0}  # exact in float32


def built(spec=None, **options):
    spec = spec or spec_of()
    return sensitivity_specificity.build(sensitivity_specificity.Config(**options), spec, [1] * spec.num_classes)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize(("r", "fixed"), [(0.05, {}), (0.7, FIXED)])
def test_sensitivity_specificity_is_what_numpy_computes_class_by_class(per_image, classes, r, fixed):
    def cost(p, g):
        within = ((g - p) ** 2 * g).sum() / g.sum() if g.any() else 0
        outside = ((g - p) ** 2 * (1 - g)).sum() / (1 - g).sum() if (1 - g).any() else 0
        return r * within + (1 - r) * outside

    logits, target = random_case()
    target[2] = target[2].where(target[2] == IGNORE, 1)  # an image of one class has no outside
    loss = built(per_image=per_image, classes=classes, r=r, weights="fixed" if fixed else "none", fixed=fixed)
    expected = mean_over_classes(cost, logits, target, per_image=per_image, classes=classes, weights=list(fixed.values()) or None)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_a_worked_example_of_the_papers_formula():
    """Brosch et al., equation 2. Lesion p = 0.8, 0.6, 0.1 over 1, 0, 0: r 0.2^2 / 1 + (1 - r) (0.6^2 + 0.1^2) / 2."""
    p = torch.tensor([0.8, 0.6, 0.1], dtype=torch.float64)
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, 3)
    loss = built(spec_of("background", "lesion"), include_background=False)
    assert loss(logits, torch.tensor([[[1, 0, 0]]])).item() == pytest.approx(0.05 * 0.04 + 0.95 * 0.37 / 2)


@pytest.mark.parametrize("options", [{}, {"per_image": True}, {"classes": "all"}])
def test_a_perfect_prediction_costs_nothing(options):
    _, target = random_case()
    assert built(**options)(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


def test_a_few_pixels_outside_of_a_class_of_millions_are_charged_exactly():
    """10 of 2 million pixels are not background, and it has p = 0.5 there: the error of specificity is 0.25, the rest's is 0."""
    target = torch.zeros(1, 1024, 2048, dtype=torch.int64)
    target[0, 0, :10] = 1
    logits = torch.stack([torch.full(target.shape, 8.0), torch.full(target.shape, -8.0)], 1)
    logits[0, :, 0, :10] = 0
    missed = 0.05 * 0.5**2  # of the ten
    invented = 0.95 * 0.5**2  # background over the ten
    value = built(spec_of(classes=2))(logits, target).item()
    assert value == pytest.approx((missed + invented) / 2, rel=1e-5)


@pytest.mark.parametrize("options", [{"per_image": True}, {"classes": "all", "r": 0.5, "weights": "inverse"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(sensitivity_specificity, options)


@pytest.mark.parametrize("r", [0, 1])
def test_r_lies_between_0_and_1(r):
    with pytest.raises(ConfigError, match=r"sensitivity_specificity\.options\.r"):
        configure("losses", Plugin(name="sensitivity_specificity", options={"r": r}))
