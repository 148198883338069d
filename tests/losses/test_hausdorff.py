from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, convolve, distance_transform_edt
from scipy.special import softmax

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import hausdorff
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of, sure

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])


def built(spec=None, **options):
    spec = spec or spec_of()
    return hausdorff.build(hausdorff.Config(**options), spec, [1] * spec.num_classes)


def scipy_distance(mask, valid):
    """From the mask's boundary, from either side; 0 where it has none among the labelled pixels."""
    own, other = mask & valid, ~mask & valid
    if not own.any() or not other.any():
        return np.zeros(mask.shape)
    return np.where(own, distance_transform_edt(~other), distance_transform_edt(~own)) * valid


def by_scipy(logits, target, cost):
    """The sum of `cost(p, q, valid)` over images and classes, over the number of labelled pixels."""
    q, target = softmax(logits.detach().numpy(), axis=1), target.numpy()
    valid = target != IGNORE
    total = sum(cost(target[n] == index, q[n, index], valid[n]) for n in range(len(q)) for index in range(q.shape[1]))
    return total / valid.sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("alpha", "one_sided"), [(2.0, False), (1.0, False), (0.5, False), (2.0, True)])
def test_the_distance_transform_form_is_what_scipy_computes_class_by_class(seed, alpha, one_sided):
    def cost(p, q, valid):
        d_q = 0 if one_sided else scipy_distance(q > 0.5, valid) ** alpha
        return ((p - q) ** 2 * (scipy_distance(p, valid) ** alpha + d_q))[valid].sum()

    logits, target = random_case(seed=seed)
    target[:, 1:5, 1:6] = 2  # something with an inside
    assert built(alpha=alpha, one_sided=one_sided)(logits, target).item() == pytest.approx(by_scipy(logits, target, cost), rel=1e-6)


@pytest.mark.parametrize(("alpha", "erosions"), [(2.0, 10), (1.0, 3), (2.0, 1)])
def test_the_erosion_form_is_what_scipys_convolutions_give_class_by_class(alpha, erosions):
    def cost(p, q, valid):
        error, total = (p - q) ** 2 * valid, 0.0
        for k in range(1, erosions + 1):
            error = np.maximum(2 * convolve(error, CROSS / 5, mode="constant") - 1, 0)
            total += k**alpha * error.sum()
        return total

    target = torch.ones(2, 16, 18, dtype=torch.int64)
    target[:, 4:13, 5:15] = 2
    target[1, 7, 7:9] = IGNORE
    logits = torch.randn(2, 4, 16, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, 0] += 7  # wrong nearly everywhere
    expected = by_scipy(logits, target, cost)
    assert expected > 0.5
    assert built(form="erosion", alpha=alpha, erosions=erosions)(logits, target).item() == pytest.approx(expected, rel=1e-9)


def test_what_stays_1_of_a_certain_error_is_scipys_binary_erosion():
    wrong = torch.from_numpy(np.random.default_rng(0).random((1, 30, 40)) < 0.97).double()
    error = wrong
    for k in range(1, 4):
        error = hausdorff.eroded(error)
        expected = binary_erosion(wrong[0].numpy(), CROSS, iterations=k)
        assert expected.any()
        assert np.array_equal(error[0].numpy() > 1 - 1e-12, expected)


def test_a_worked_example_of_distances():
    """One class, truth 1 1 0 0 0 0, found also at the last pixel, for sure: (p - q)^2 is 1 there alone. It is 4 away from the truth; the
    found mask 1 1 0 0 0 1 has its own boundary 1 away. 4^2 + 1^2 = 17, in 6 pixels."""
    spec, target = spec_of("background", "lesion"), torch.tensor([[[1, 1, 0, 0, 0, 0]]])
    found = sure(torch.tensor([[[1, 1, 0, 0, 0, 1]]]), 2, 200.0)
    assert built(spec, include_background=False)(found, target).item() == pytest.approx(17 / 6)
    assert built(spec, include_background=False, alpha=1)(found, target).item() == pytest.approx(5 / 6)
    assert built(spec, include_background=False, one_sided=True)(found, target).item() == pytest.approx(16 / 6)
    # background: outside of the truth's lesion 4 within, and of the found one 1: the same error counts again
    assert built(spec)(found, target).item() == pytest.approx(34 / 6)


def test_a_worked_example_of_erosions():
    """A certain error of 3x3: once eroded its centre is 1, edges (4 of 5) 0.6 and corners (3 of 5) 0.2, so 4.2; then the centre is
    2 (1 + 4 0.6) / 5 - 1 = 0.36, edges 2 (0.6 + 1 + 2 0.2) / 5 - 1 < 0; then nothing: 1^2 4.2 + 2^2 0.36 = 5.64 of one class."""
    spec = spec_of("background", "lesion")
    target, found = torch.zeros(1, 7, 7, dtype=torch.int64), torch.zeros(1, 7, 7, dtype=torch.int64)
    found[0, 2:5, 2:5] = 1
    loss = built(spec, form="erosion", include_background=False)
    assert loss(sure(found, 2, 200.0), target).item() == pytest.approx(5.64 / 49)
    assert built(spec, form="erosion")(sure(found, 2, 200.0), target).item() == pytest.approx(2 * 5.64 / 49)


@pytest.mark.parametrize("form", ["distance_transform", "erosion"])
def test_a_perfect_prediction_costs_nothing(form):
    _, target = random_case()
    assert built(form=form)(sure(target, 4, 200.0), target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", ["distance_transform", "erosion"])
def test_the_same_error_costs_more_further_away(form):
    target = torch.zeros(1, 40, 40, dtype=torch.int64)
    target[:, :10] = 1
    costs = []
    for left in (10, 20, 30):
        found = target.clone()
        found[:, left : left + 8, 16:24] = 1
        costs.append(built(spec_of(classes=2), form=form, erosions=3)(sure(found, 2, 200.0), target).item())
    assert costs == sorted(costs)
    assert costs[2] > costs[0] or form == "erosion"  # an erosion sees how thick an error is, not where


def test_erosion_has_a_gradient_where_the_error_is_equal_everywhere():
    logits = torch.zeros(1, 4, 8, 8, dtype=torch.float64)
    logits[:, 0] = 3
    logits.requires_grad_()
    built(form="erosion")(logits, torch.ones(1, 8, 8, dtype=torch.int64)).backward()
    assert logits.grad[0, 1, 4, 4] < 0 < logits.grad[0, 0, 4, 4]


@pytest.mark.parametrize("options", [{"form": "erosion", "erosions": 3}, {"one_sided": True, "alpha": 1.0}])
def test_the_contract_holds_for_other_options(options):
    check_loss(hausdorff, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "erosion", "one_sided": True}, "an erosion has no sides"),
        ({"form": "convolution"}, "Input should be 'distance_transform'"),
        ({"alpha": 0}, "greater than 0"),
        ({"erosions": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_options_are_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("losses", Plugin(name="hausdorff", options=options))
