from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import dice
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, mean_over_classes, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0, "c3": 1.0}  # exact in float32


def built(spec=None, **options):
    spec = spec or spec_of()
    return dice.build(dice.Config(**options), spec, [1] * spec.num_classes)


def numpy_dice(smooth=0.0, squared=False):
    def cost(p, g):
        whole = (p**2).sum() + (g**2).sum() if squared else p.sum() + g.sum()
        return 1 - (2 * (p * g).sum() + smooth) / (whole + smooth)

    return cost


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(
    ("classes", "smooth", "fixed"), [("present", 0.0, {}), ("present", 1.0, FIXED), ("all", 0.5, {}), ("all", 1.0, FIXED)]
)
def test_dice_loss_is_what_numpy_computes_class_by_class(per_image, classes, squared, smooth, fixed):
    logits, target = random_case()
    weights = "fixed" if fixed else "none"
    loss = built(per_image=per_image, classes=classes, squared=squared, smooth=smooth, weights=weights, fixed=fixed)
    cost = numpy_dice(smooth, squared)
    expected = mean_over_classes(cost, logits, target, per_image=per_image, classes=classes, weights=list(fixed.values()) or None)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_a_worked_example_of_the_papers_formula():
    """V-Net, section 3: D = 2 sum p g / (sum p^2 + sum g^2). Foreground p = 0.8, 0.6, 0.1 over g = 1, 0, 0: D = 1.6 / (1.01 + 1)."""
    p = torch.tensor([0.8, 0.6, 0.1], dtype=torch.float64)
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, 3)
    target = torch.tensor([[[1, 0, 0]]])
    spec = spec_of("background", "lesion")
    squared = built(spec, squared=True, include_background=False)
    assert squared(logits, target).item() == pytest.approx(1 - 1.6 / 2.01)
    plain = built(spec, include_background=False)
    assert plain(logits, target).item() == pytest.approx(1 - 1.6 / 2.5)
    both = built(spec)  # background: p = 0.2, 0.4, 0.9 over g = 0, 1, 1
    assert both(logits, target).item() == pytest.approx(1 - (1.6 / 2.5 + 2.6 / 3.5) / 2)


@pytest.mark.parametrize("squared", [False, True])
def test_of_certain_predictions_it_is_1_minus_scikit_learns_f1(squared):
    _, target = random_case()
    _, predicted = random_case(seed=5)
    predicted = predicted.where(predicted != IGNORE, 0)
    counts = (target != IGNORE).numpy()
    scores = f1_score(target.numpy()[counts], predicted.numpy()[counts], average=None, labels=[0, 1, 2])
    assert built(squared=squared)(sure(predicted, 4), target).item() == pytest.approx(1 - scores.mean(), rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"per_image": True}, {"classes": "all", "smooth": 1}, {"squared": True}])
def test_a_perfect_prediction_costs_nothing(options):
    _, target = random_case()
    assert built(**options)(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


def test_an_absent_class_costs_what_is_predicted_of_it_only_when_all_count():
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)  # of each pixel: 2 of absent class 1 in the sum
    logits = p.log().view(1, 2, 1, 1).expand(1, 2, 2, 2)
    present = 1 - 2 * 2 / (2 + 4)
    assert built(spec_of(classes=2))(logits, target).item() == pytest.approx(present)
    absent = 1 - 1 / (2 + 1)
    smooth = 1 - (2 * 2 + 1) / (2 + 4 + 1)
    assert built(spec_of(classes=2), classes="all", smooth=1)(logits, target).item() == pytest.approx((smooth + absent) / 2)


def test_an_image_without_labels_is_left_out_of_the_mean_over_images():
    logits, target = random_case()
    target[1] = IGNORE
    two = torch.tensor([0, 2])
    for classes in ("present", "all"):
        loss = built(per_image=True, classes=classes, smooth=0.1)
        assert loss(logits, target).item() == pytest.approx(loss(logits[two], target[two]).item(), rel=1e-12)


def test_background_is_left_out_by_its_name_wherever_it_stands():
    logits, target = random_case()
    expected = mean_over_classes(numpy_dice(), logits, target, left_out=[2])
    loss = built(spec_of("a", "b", "Background", "d"), include_background=False)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ConfigError, match=r"the classes are c0, c1, c2, c3.*weights: fixed"):
        built(include_background=False)


def test_float32_counts_four_million_pixels():
    """A class of 16 pixels among 4 million, half of which are predicted: float32 sums of the whole batch would lose it."""
    target = torch.zeros(8, 512, 1024, dtype=torch.int64)
    target[7, 0, :16] = 1
    logits = torch.stack([torch.full(target.shape, 12.0), torch.zeros(target.shape)], 1)
    logits[7, 1, 0, :8] = 24
    p = torch.tensor([0.0, 12.0, -12.0], dtype=torch.float64).neg().exp()
    p = 1 / (1 + p)[1:]  # of the one and of the other
    large, small = p.tolist()
    hit, predicted = 8 * (large + small), 8 * large + (target.numel() - 8) * small
    rare = 1 - 2 * hit / (predicted + 16)
    background = 1 - 2 * (target.numel() - 16) * large / ((target.numel() - 8) * large + 8 * small + target.numel() - 16)
    assert built(spec_of(classes=2))(logits, target).item() == pytest.approx((rare + background) / 2, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, target = random_case()
    logits = logits.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = built()(logits, target)
    assert value.item() == pytest.approx(built()(logits.double(), target).item(), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"per_image": True, "squared": True},
        {"classes": "all", "smooth": 1.0, "weights": "inverse"},
        {"classes": "all", "smooth": 1e-5, "per_image": True},
    ],
)
def test_the_contract_holds_for_other_options(options):
    check_loss(dice, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": -1}, "greater than or equal to 0"),
        ({"classes": "all"}, "absent costs 1 whatever is predicted"),
        ({"classes": "some"}, "'present' or 'all'"),
        ({"weights": "fixed"}, "exactly when"),
    ],
)
def test_wrong_options_are_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("losses", Plugin(name="dice", options=options))


def test_the_gradient_points_from_absent_classes_to_those_that_are_there():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    built(spec_of(classes=3))(logits, torch.zeros(1, 2, 2, dtype=torch.int64)).backward()
    assert np.sign(logits.grad[0, :, 0, 0].numpy()).tolist() == [-1, 1, 1]
