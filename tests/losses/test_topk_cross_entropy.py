from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from segtasks.losses import cross_entropy, topk_cross_entropy
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of, sure


def built(classes=4, **options):
    return topk_cross_entropy.build(topk_cross_entropy.Config(**options), spec_of(classes=classes), [1] * classes)


def numpy_losses(logits, target):
    """-log p of each labelled pixel's class, and the classes."""
    log_p = np.moveaxis(log_softmax(logits.detach().numpy(), axis=1), 1, -1)
    target = target.numpy()
    t = target[target != IGNORE]
    return -log_p[target != IGNORE][np.arange(len(t)), t], t


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_is_over_the_hardest_share_of_the_batchs_labelled_pixels(share, seed):
    logits, target = random_case(seed=seed)
    losses, _ = numpy_losses(logits, target)
    expected = np.sort(losses)[::-1][: max(1, round(share * len(losses)))].mean()
    assert built(share=share)(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_class_weights_weigh_the_chosen_pixels_and_choose_none_of_weight_0():
    logits, target = random_case()
    weights = np.array([0.0, 2.0, 0.5, 1.0])
    losses, t = numpy_losses(logits, target)
    losses, t = losses[t != 0], t[t != 0]
    hardest = np.argsort(-losses)[: round(0.2 * len(losses))]
    expected = (losses * weights[t])[hardest].sum() / weights[t][hardest].sum()
    loss = built(share=0.2, weights="fixed", fixed={"c0": 0.0, "c1": 2.0, "c2": 0.5})
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_a_share_of_1_is_cross_entropy():
    logits, target = random_case()
    plain = cross_entropy.build(cross_entropy.Config(label_smoothing=0.1), spec_of(), [1] * 4)
    assert built(share=1, label_smoothing=0.1)(logits, target).item() == pytest.approx(plain(logits, target).item(), rel=1e-12)


def test_a_worked_example():
    """Four pixels of class 0 with p = 1/2, 1/3, 1/4, 1/5: half of them is ln 5 and ln 4. Only those two get a gradient."""
    logits = torch.tensor([[[[0.0, 0.0, 0.0, 0.0]], [[math.log(n) for n in (1, 2, 3, 4)]]]], dtype=torch.float64, requires_grad=True)
    value = built(2, share=0.5)(logits, torch.zeros(1, 1, 4, dtype=torch.int64))
    assert value.item() == pytest.approx((math.log(4) + math.log(5)) / 2)
    value.backward()
    assert logits.grad[0, 0, 0].tolist() == pytest.approx([0, 0, -(1 - 1 / 4) / 2, -(1 - 1 / 5) / 2])


def test_ties_with_the_last_chosen_pixel_are_chosen_too():
    """Before training all pixels are alike: none is preferred by its place."""
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    built(2, share=0.1)(logits, torch.zeros(1, 3, 3, dtype=torch.int64)).backward()
    assert logits.grad[0, 0].flatten().tolist() == pytest.approx([-0.5 / 9] * 9)


def test_a_perfect_prediction_costs_nothing():
    _, target = random_case()
    assert built()(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{"share": 1}, {"share": 0.5, "weights": "inverse", "label_smoothing": 0.1}])
def test_the_contract_holds_for_other_options(options):
    check_loss(topk_cross_entropy, options)
