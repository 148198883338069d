from __future__ import annotations

import pytest
import torch
from sklearn.metrics import fbeta_score

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import dice, jaccard, tversky
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, mean_over_classes, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0, "c3": 1.0}  # exact in float32


def built(spec=None, **options):
    spec = spec or spec_of()
    return tversky.build(tversky.Config(**options), spec, [1] * spec.num_classes)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(0.3, 0.7, 1), (0, 1, 4 / 3), (1, 0.2, 3)])
@pytest.mark.parametrize(
    ("classes", "smooth", "fixed"), [("present", 0.0, {}), ("present", 1.0, FIXED), ("all", 0.5, {}), ("all", 1.0, FIXED)]
)
def test_tversky_loss_is_what_numpy_computes_class_by_class(per_image, classes, alpha, beta, gamma, smooth, fixed):
    def cost(p, g):
        hit, invented, missed = (p * g).sum(), (p * (1 - g)).sum(), ((1 - p) * g).sum()
        whole = hit + alpha * invented + beta * missed + smooth
        return (1 - (hit + smooth) / whole) ** (1 / gamma) if whole else 0.0

    logits, target = random_case()
    options = {"per_image": per_image, "classes": classes, "alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth}
    loss = built(**options, weights="fixed" if fixed else "none", fixed=fixed)
    expected = mean_over_classes(cost, logits, target, per_image=per_image, classes=classes, weights=list(fixed.values()) or None)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_the_papers_special_cases_are_dice_and_jaccard():
    """Salehi et al., section 2.2: alpha = beta = 0.5 is Dice, alpha = beta = 1 Tanimoto."""
    logits, target = random_case()
    same = dice.build(dice.Config(), spec_of(), [1] * 4)(logits, target).item()
    assert built(alpha=0.5, beta=0.5)(logits, target).item() == pytest.approx(same, rel=1e-12)
    same = jaccard.build(jaccard.Config(), spec_of(), [1] * 4)(logits, target).item()
    assert built(alpha=1, beta=1)(logits, target).item() == pytest.approx(same, rel=1e-12)


def test_of_certain_predictions_it_is_1_minus_scikit_learns_f2():
    """Salehi et al.: alpha + beta = 1 are the F scores. F2 weighs a miss four times an invention: alpha 0.2, beta 0.8."""
    _, target = random_case()
    _, predicted = random_case(seed=5)
    predicted = predicted.where(predicted != IGNORE, 0)
    counts = (target != IGNORE).numpy()
    scores = fbeta_score(target.numpy()[counts], predicted.numpy()[counts], beta=2, average=None, labels=[0, 1, 2])
    assert built(alpha=0.2, beta=0.8)(sure(predicted, 4), target).item() == pytest.approx(1 - scores.mean(), rel=1e-9)


def test_a_worked_example():
    """p = 0.8, 0.6, 0.1 over g = 1, 0, 0: TP 0.8, FP 0.7, FN 0.2. T = 0.8 / (0.8 + 0.3 0.7 + 0.7 0.2) = 0.8 / 1.15."""
    p = torch.tensor([0.8, 0.6, 0.1], dtype=torch.float64)
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, 3)
    spec, target = spec_of("background", "lesion"), torch.tensor([[[1, 0, 0]]])
    assert built(spec, include_background=False)(logits, target).item() == pytest.approx(1 - 0.8 / 1.15)
    focal = built(spec, include_background=False, gamma=4 / 3)
    assert focal(logits, target).item() == pytest.approx((1 - 0.8 / 1.15) ** 0.75)


@pytest.mark.parametrize("gamma", [1.0, 4 / 3, 3.0])
def test_a_perfect_prediction_costs_nothing_and_has_a_finite_gradient(gamma):
    """x^(1 / gamma) has an infinite slope at 0."""
    _, target = random_case()
    logits = sure(target, 4, 200.0).float().requires_grad_()
    value = built(gamma=gamma)(logits, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("options", [{"gamma": 4 / 3}, {"per_image": True, "alpha": 0, "beta": 1}, {"classes": "all", "smooth": 1.0}])
def test_the_contract_holds_for_other_options(options):
    check_loss(tversky, options)


@pytest.mark.parametrize(
    ("options", "message"), [({"alpha": 0, "beta": 0}, "no error would cost"), ({"gamma": 0.5}, "greater than or equal to 1")]
)
def test_wrong_options_are_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("losses", Plugin(name="tversky", options=options))
