from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from scipy.special import softmax

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.losses import boundary
from segtasks.losses._distance import fields
from segtasks.plugins import configure
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of, sure


def built(spec=None, **options):
    spec = spec or spec_of()
    return boundary.build(boundary.Config(**options), spec, [1] * spec.num_classes)


def scipy_map(target, index):
    """phi of one class in one image, by SciPy, with the authors' -1 inside."""
    own, other = target == index, (target != index) & (target != IGNORE)
    if not own.any() or not other.any():
        return np.zeros(target.shape)
    return np.where(own, 1 - distance_transform_edt(~other), distance_transform_edt(~own)) * (target != IGNORE)


def scipy_boundary_loss(logits, target, left_out=()):
    s, target = softmax(logits.detach().numpy(), axis=1), target.numpy()
    total = sum(
        (s[n, index] * scipy_map(target[n], index)).sum() for n in range(len(s)) for index in range(s.shape[1]) if index not in left_out
    )
    return total / (target != IGNORE).sum()


@pytest.mark.parametrize("seed", range(5))
def test_boundary_loss_is_what_scipy_computes_class_by_class(seed):
    logits, target = random_case(seed=seed)
    assert built()(logits, target).item() == pytest.approx(scipy_boundary_loss(logits, target), rel=1e-6)


def test_the_authors_map_of_two_classes():
    """Their one_hot2dist: distance(negmask) * negmask - (distance(posmask) - 1) * posmask."""
    posmask = np.zeros((12, 15), bool)
    posmask[3:9, 4:11] = True
    theirs = distance_transform_edt(~posmask) * ~posmask - (distance_transform_edt(posmask) - 1) * posmask
    classes, phi = boundary.signed_maps(torch.from_numpy(posmask.astype("int64")), torch.ones(12, 15, dtype=torch.bool))
    assert classes.tolist() == [0, 1]
    np.testing.assert_allclose(phi[1].numpy(), theirs, rtol=1e-6)


def test_a_worked_example():
    """Truth 0 0 1 1 1: phi_1 is 2 1 0 -1 -2 and phi_0 is -1 0 1 2 3. s_1 = 1/4 everywhere: (1/4 (0) + 3/4 (5)) / 5 = 3/4."""
    target = torch.tensor([[[0, 0, 1, 1, 1]]])
    _, phi = boundary.signed_maps(target[0], target[0] >= 0)
    assert phi.squeeze(1).tolist() == [[-1, 0, 1, 2, 3], [2, 1, 0, -1, -2]]
    logits = torch.zeros(1, 2, 1, 5, dtype=torch.float64)
    logits[:, 0] = np.log(3)
    assert built(spec_of(classes=2))(logits, target).item() == pytest.approx(0.75)
    left_out = built(spec_of("background", "lesion"), include_background=False)
    assert left_out(logits, target).item() == pytest.approx(0)
    logits[0, :, 0, 0] = torch.tensor([0.0, 60.0])  # a lesion found two pixels away from it: 2 (1 - 1/4) more
    assert left_out(logits, target).item() == pytest.approx(1.5 / 5)


def test_a_perfect_prediction_has_the_minimum_the_mean_of_phi_of_the_right_class():
    _, target = random_case(seed=2)
    target[:, 1:5, 1:6] = 2  # something with an inside
    phi = sum(scipy_map(target[n].numpy(), index)[target[n].numpy() == index].sum() for n in range(3) for index in range(4))
    minimum = phi / (target != IGNORE).sum().item()
    assert minimum < 0
    loss = built()
    assert loss(sure(target, 4, 200.0), target).item() == pytest.approx(minimum, rel=1e-6)
    for seed in range(5):
        assert loss(random_case(seed=seed)[0], target).item() > minimum


def test_an_image_of_one_class_costs_nothing_whatever_is_predicted():
    logits = torch.randn(1, 4, 5, 6, requires_grad=True)
    value = built()(logits, torch.full((1, 5, 6), 3))
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_absent_classes_cost_nothing_and_draw_no_gradient_of_their_own():
    """Of a prediction that is sure of an absent class, phi s is 0 everywhere."""
    _, target = random_case(seed=1)
    absent = sure(torch.full_like(target, 3), 4, 200.0)
    assert built()(absent, target).item() == pytest.approx(0, abs=1e-12)


def test_maps_are_of_the_classes_that_occur_only(monkeypatch):
    asked = []
    monkeypatch.setattr("segtasks.losses.boundary.fields", lambda *args: asked.append(fields(*args)) or asked[-1])
    _, target = random_case()
    built()(torch.zeros(3, 4, 6, 7), target)
    assert [found.classes_P.tolist() for found in asked] == [[0, 2], [0, 1, 2], [0, 1, 2]]


def test_the_contract_holds_without_background():
    class Module:
        Config = boundary.Config

        @staticmethod
        def build(config, spec, class_pixels):
            return boundary.build(config, spec_of("background", "a", "b", "c"), class_pixels)

    check_loss(Module, {"include_background": False})


def test_a_background_that_is_not_there_is_a_config_error():
    with pytest.raises(ConfigError, match="the classes are c0, c1, c2, c3"):
        built(include_background=False)
    with pytest.raises(ConfigError, match="unknown setting"):
        configure("losses", Plugin(name="boundary", options={"idc": [1]}))
