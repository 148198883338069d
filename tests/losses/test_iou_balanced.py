from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from segtasks.losses import cross_entropy, iou_balanced
from segtasks.losses.iou_balanced import classification_weights, localisation
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of, sure

FIXED = {"c0": 0.25, "c1": 2.0, "c2": 4.0, "c3": 1.0}  # exact in float32
BACKGROUND = ("background", "c1", "c2", "c3")


def built(spec=None, **options):
    spec = spec or spec_of()
    return iou_balanced.build(iou_balanced.Config(**options), spec, [1] * spec.num_classes)


def numpy_pixels(logits, target, weights=None):
    """Of each labelled pixel: its index (n, y, x), class, cross-entropy, class weight, and the soft IoU of its class in its image."""
    p, log_p, target = softmax(logits.numpy(), axis=1), log_softmax(logits.numpy(), axis=1), target.numpy()
    rows = []
    for n, y, x in np.argwhere(target != IGNORE):
        t = target[n, y, x]
        labelled = target[n] != IGNORE
        q, g = p[n, t][labelled], target[n][labelled] == t
        rows.append(
            ((n, y, x), t, -log_p[n, t, y, x], 1.0 if weights is None else weights[t], q[g].sum() / (q.sum() + g.sum() - q[g].sum()))
        )
    return rows


def numpy_gradient(logits, target, eta, weights, negatives, w_loc=0.0, lam=1.5, beta=0.11):
    """d L / d logits by the equations, weights constant; and L."""
    rows = numpy_pixels(logits, target, weights)
    positive = [row for row in rows if row[1] not in negatives]
    scale = sum(ce * w for _, _, ce, w, _ in positive) / sum(iou**eta * ce * w for _, _, ce, w, iou in positive)
    norm = sum(w for _, _, _, w, _ in rows)
    p = softmax(logits.numpy(), axis=1)
    gradient, value = np.zeros_like(p), 0.0
    for (n, y, x), t, ce, w, iou in rows:
        factor = 1.0 if t in negatives else scale * iou**eta
        own = np.eye(p.shape[1])[t]
        q = p[n, t, y, x]
        value += w * factor * ce / norm
        gradient[n, :, y, x] += w * factor * (p[n, :, y, x] - own) / norm
        if w_loc and t not in negatives:
            d = q - 1
            smooth, slope = (d**2 / (2 * beta), d / beta) if abs(d) < beta else (abs(d) - beta / 2, np.sign(d))
            value += w_loc * w * iou**lam * smooth / norm
            gradient[n, :, y, x] += w_loc * w * iou**lam * slope * q * (own - p[n, :, y, x]) / norm
    return gradient, value


@pytest.mark.parametrize("options", [{}, {"eta": 0.5}, {"localisation": 2.0}, {"localisation": 0.5, "lam": 3.0, "beta": 0.5, "eta": 0.0}])
@pytest.mark.parametrize("fixed", [{}, FIXED])
@pytest.mark.parametrize("names", [(), BACKGROUND])
def test_value_and_gradient_are_the_papers_with_constant_weights(options, fixed, names):
    logits, target = random_case()
    fixed = {name if name != "c0" or not names else "background": weight for name, weight in fixed.items()}
    loss = built(spec_of(*names), **options, weights="fixed" if fixed else "none", fixed=fixed)
    value = loss(logits.requires_grad_(), target)
    value.backward()
    gradient, expected = numpy_gradient(
        logits.detach(),
        target,
        options.get("eta", 1.5),
        list(fixed.values()) or None,
        [0] if names else [],
        options.get("localisation", 0.0),
        options.get("lam", 1.5),
        options.get("beta", 0.11),
    )
    assert value.item() == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)


def test_the_classification_part_has_the_value_of_cross_entropy_and_another_gradient():
    logits, target = random_case()
    plain = cross_entropy.build(cross_entropy.Config(), spec_of(), [1] * 4)
    values, gradients = [], []
    for loss in (plain, built(), built(eta=0)):
        inputs = logits.clone().requires_grad_()
        values.append(loss(inputs, target))
        values[-1].backward()
        gradients.append(inputs.grad)
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-12)
    assert (gradients[1] - gradients[0]).abs().max() > 1e-4
    torch.testing.assert_close(gradients[2], gradients[0])


def test_a_worked_example_of_equations_1_and_2():
    """Losses 1 and 3 with IoU 1/4 and 1 and eta 0.5: weights 0.5 and 1, times (1 + 3) / (0.5 + 3)."""
    weights = classification_weights(torch.tensor([1.0, 3.0]), torch.tensor([0.25, 1.0]), 0.5)
    assert weights.tolist() == pytest.approx([0.5 * 4 / 3.5, 4 / 3.5])
    assert (weights * torch.tensor([1.0, 3.0])).sum().item() == pytest.approx(4)


def test_positives_without_any_overlap_keep_their_weight():
    assert classification_weights(torch.tensor([1.0, 3.0]), torch.zeros(2), 1.5).tolist() == [1, 1]
    assert classification_weights(torch.zeros(0), torch.zeros(0), 1.5).tolist() == []


def test_the_localisation_part_of_boxes_has_the_gradient_of_equation_6():
    """w d / beta within beta and w sign(d) beyond, with w = IoU^lambda of which nothing is propagated."""
    predicted = torch.tensor([[0.05, -0.2, 0.0, 0.3], [0.11, 0.0, -0.05, 2.0]], dtype=torch.float64, requires_grad=True)
    iou = torch.tensor([0.81, 0.25], dtype=torch.float64, requires_grad=True)
    losses = localisation(predicted, torch.zeros_like(predicted), iou, 1.5, 0.11)
    w = np.array([0.9**3, 0.5**3])
    first = 0.05**2 / 0.22 + (0.2 - 0.055) + (0.3 - 0.055)
    assert losses[0].item() == pytest.approx(w[0] * first)
    losses.sum().backward()
    expected = w[:, None] * np.array([[0.05 / 0.11, -1, 0, 1], [1, 0, -0.05 / 0.11, 1]])
    np.testing.assert_allclose(predicted.grad.numpy(), expected, rtol=1e-12)
    assert iou.grad is None


@pytest.mark.parametrize("options", [{}, {"localisation": 1.0}])
def test_a_perfect_prediction_costs_nothing(options):
    _, target = random_case()
    assert built(**options)(sure(target, 4), target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{"localisation": 1.0}, {"eta": 0.5, "weights": "inverse"}])
def test_the_contract_holds_for_other_options(options):
    check_loss(iou_balanced, options)
