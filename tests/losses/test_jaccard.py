from __future__ import annotations

import pytest
import torch
from sklearn.metrics import jaccard_score

from segtasks.losses import jaccard
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, mean_over_classes, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0, "c3": 1.0}  # exact in float32


def built(spec=None, **options):
    spec = spec or spec_of()
    return jaccard.build(jaccard.Config(**options), spec, [1] * spec.num_classes)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("classes", "smooth", "fixed"), [("present", 0.0, {}), ("present", 1.0, FIXED), ("all", 0.5, {}), ("all", 1.0, FIXED)]
)
def test_jaccard_loss_is_what_numpy_computes_class_by_class(per_image, classes, smooth, fixed):
    def cost(p, g):
        return 1 - ((p * g).sum() + smooth) / ((p + g - p * g).sum() + smooth)

    logits, target = random_case()
    loss = built(per_image=per_image, classes=classes, smooth=smooth, weights="fixed" if fixed else "none", fixed=fixed)
    expected = mean_over_classes(cost, logits, target, per_image=per_image, classes=classes, weights=list(fixed.values()) or None)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_a_worked_example_of_the_papers_formula():
    """Rahman and Wang, equations 3 to 5: I = sum x y, U = sum (x + y - x y). X = 0.8, 0.6, 0.1 over Y = 1, 0, 0: I = 0.8, U = 1.7."""
    p = torch.tensor([0.8, 0.6, 0.1], dtype=torch.float64)
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, 3)
    loss = built(spec_of("background", "object"), include_background=False)
    assert loss(logits, torch.tensor([[[1, 0, 0]]])).item() == pytest.approx(1 - 0.8 / 1.7)


def test_of_certain_predictions_it_is_1_minus_scikit_learns_mean_iou():
    _, target = random_case()
    _, predicted = random_case(seed=5)
    predicted = predicted.where(predicted != IGNORE, 0)
    counts = (target != IGNORE).numpy()
    scores = jaccard_score(target.numpy()[counts], predicted.numpy()[counts], average=None, labels=[0, 1, 2])
    assert built()(sure(predicted, 4), target).item() == pytest.approx(1 - scores.mean(), rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"per_image": True}, {"classes": "all", "smooth": 1}])
def test_a_perfect_prediction_costs_nothing(options):
    _, target = random_case()
    assert built(**options)(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{"per_image": True}, {"classes": "all", "smooth": 1.0, "weights": "log"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(jaccard, options)
