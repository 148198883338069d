from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from segtasks.losses import lovasz_softmax
from segtasks.losses._lovasz import jaccard_slopes
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, mean_over_classes, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0, "c3": 1.0}  # exact in float32


def built(spec=None, **options):
    spec = spec or spec_of()
    return lovasz_softmax.build(lovasz_softmax.Config(**options), spec, [1] * spec.num_classes)


def jaccard_loss(wrong, g):
    """The set function (equation 6): the Jaccard loss if exactly the pixels in `wrong` are wrong."""
    missed, invented = (wrong & g).sum(), (wrong & ~g).sum()
    union = g.sum() + invented
    return 1 - (g.sum() - missed) / union if union else 0.0


def extension(errors, g):
    """The Lovász extension by its definition (equations 8 and 9): steps of the set function along the sorted errors."""
    value, wrong, before = 0.0, np.zeros(len(errors), dtype=bool), 0.0
    for index in np.argsort(-errors, kind="stable"):
        wrong[index] = True
        after = jaccard_loss(wrong, g)
        value, before = value + errors[index] * (after - before), after
    return value


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("fixed", [{}, FIXED])
def test_lovasz_softmax_is_the_extension_of_each_classs_jaccard_loss(per_image, classes, fixed):
    logits, target = random_case()
    loss = built(per_image=per_image, classes=classes, weights="fixed" if fixed else "none", fixed=fixed)
    expected = mean_over_classes(
        lambda p, g: extension(np.where(g == 1, 1 - p, p), g == 1),
        logits,
        target,
        per_image=per_image,
        classes=classes,
        weights=list(fixed.values()) or None,
    )
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("g", [[1, 0, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
def test_the_extension_is_the_largest_over_all_orders(g):
    """The Jaccard loss is submodular (proposition 1), so its extension is the maximum over the base polytope: all 120 orders."""
    g = np.array(g, dtype=bool)
    errors = np.random.default_rng(3).random(len(g))
    best = 0.0
    for order in itertools.permutations(range(len(g))):
        value, before = 0.0, 0.0
        for place in range(len(order)):
            wrong = np.isin(np.arange(len(g)), order[: place + 1])
            value, before = value + errors[order[place]] * (jaccard_loss(wrong, g) - before), jaccard_loss(wrong, g)
        best = max(best, value)
    slopes = jaccard_slopes(torch.from_numpy(errors), torch.from_numpy(g), torch.ones(len(g), dtype=torch.bool))
    assert (slopes.numpy() * errors).sum() == pytest.approx(best, rel=1e-12)
    assert slopes.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_go_with_the_pixels_and_ignored_ones_have_none(dtype):
    """By hand: sorted errors are 0.9 (no), 0.5 (hit), 0.0 (no); union 2, 2, 3 and shared 1, 0, 0: steps 1/2, 1/2, 0."""
    errors = torch.tensor([0.5, -0.0, 0.7, 0.9, 0.0], dtype=dtype)
    hit, valid = torch.tensor([True, False, True, False, False]), torch.tensor([True, True, False, True, False])
    assert jaccard_slopes(errors, hit, valid).tolist() == [0.5, 0, 0, 0.5, 0]


def test_of_certain_predictions_it_is_1_minus_scikit_learns_mean_iou():
    """At the corners of the cube the extension is the set function."""
    _, target = random_case()
    _, predicted = random_case(seed=5)
    predicted = predicted.where(predicted != IGNORE, 0)
    counts = (target != IGNORE).numpy()
    scores = jaccard_score(target.numpy()[counts], predicted.numpy()[counts], average=None, labels=[0, 1, 2])
    assert built()(sure(predicted, 4), target).item() == pytest.approx(1 - scores.mean(), rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"per_image": True}, {"classes": "all"}])
def test_a_perfect_prediction_costs_nothing(options):
    _, target = random_case()
    assert built(**options)(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


def test_an_absent_class_costs_its_largest_probability_only_when_all_count():
    target = torch.zeros(1, 1, 2, dtype=torch.int64)
    p = torch.tensor([0.9, 0.6], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()]).view(1, 2, 1, 2)
    present = 0.4 * 1 / 2 + 0.1 * 1 / 2
    assert built(spec_of(classes=2))(logits, target).item() == pytest.approx(present)
    assert built(spec_of(classes=2), classes="all")(logits, target).item() == pytest.approx((present + 0.4) / 2)


def test_float32_keeps_the_slopes_of_a_million_pixels():
    """Steps of about 1e-6 between values near 1 are lost if computed as differences in float32."""
    random = torch.Generator().manual_seed(0)
    errors = torch.rand(1 << 20, generator=random)
    hit = torch.rand(1 << 20, generator=random) < 0.3
    valid = torch.ones_like(hit)
    single, double = jaccard_slopes(errors, hit, valid), jaccard_slopes(errors.double(), hit, valid)
    assert (single - double).abs().max() <= 1e-6 * double.max()


@pytest.mark.parametrize("options", [{"per_image": True}, {"classes": "all", "weights": "inverse"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(lovasz_softmax, options)
