from __future__ import annotations

import numpy as np
import pytest
import torch

from segtasks.errors import ConfigError
from segtasks.losses import lovasz_hinge
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of
from tests.losses.test_lovasz_softmax import extension


def built(spec=None, **options):
    return lovasz_hinge.build(lovasz_hinge.Config(**options), spec or spec_of(classes=2), [1, 1])


def numpy_hinge(f, g):
    """The extension of the Jaccard loss at the margins."""
    return extension(np.maximum(0, 1 - f * np.where(g, 1, -1)), g)


def two_classes():
    """Two class logits, and a target in which the first image has no foreground."""
    logits, target = random_case()
    target = target.where((target == IGNORE) | (target < 2), 1)
    target[0] = target[0].where(target[0] == IGNORE, 0)
    return logits[:, :2], target


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("foreground", [0, 1])
def test_lovasz_hinge_is_the_extension_of_the_foregrounds_jaccard_loss_at_the_margins(per_image, foreground):
    logits, target = two_classes()
    f = (logits[:, foreground] - logits[:, 1 - foreground]).numpy()
    groups = [[0], [1], [2]] if per_image else [[0, 1, 2]]
    counts = target.numpy() != IGNORE
    expected = np.mean([numpy_hinge(f[g][counts[g]], target.numpy()[g][counts[g]] == foreground) for g in groups])
    loss = built(per_image=per_image, foreground=f"c{foreground}")
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_a_worked_example():
    """f y = -1, 0.5, 3 for hit, no, hit: margins 2, 0.5, 0. The Jaccard loss steps to 1/2 and to 1 - 1/3: 2 / 2 + 0.5 / 6."""
    f = torch.tensor([-1.0, -0.5, 3.0], dtype=torch.float64)
    logits = torch.stack([-f / 2, f / 2]).view(1, 2, 1, 3)
    assert built()(logits, torch.tensor([[[1, 0, 1]]])).item() == pytest.approx(2 / 2 + 0.5 * (2 / 3 - 1 / 2))


def test_margins_of_1_and_more_cost_nothing():
    _, target = two_classes()
    hit = (target == 1).double()
    assert built()(torch.stack([1 - hit, hit], 1), target).item() == 0
    assert built()(torch.stack([1 - hit, hit], 1) * 0.9, target).item() == pytest.approx(0.1)  # every margin, and slopes add up to 1


def test_the_foreground_is_the_class_not_called_background_or_else_the_second():
    assert lovasz_hinge.foreground_class(lovasz_hinge.Config(), spec_of("background", "cell")) == 1
    assert lovasz_hinge.foreground_class(lovasz_hinge.Config(), spec_of("cell", "background")) == 0
    assert lovasz_hinge.foreground_class(lovasz_hinge.Config(), spec_of("land", "water")) == 1
    assert lovasz_hinge.foreground_class(lovasz_hinge.Config(foreground="land"), spec_of("land", "water")) == 0


def test_other_than_two_classes_and_unknown_foregrounds_are_config_errors():
    with pytest.raises(ConfigError, match=r"two classes; the data set has 3 \(c0, c1, c2\): use lovasz_softmax, which"):
        built(spec_of(classes=3))
    with pytest.raises(ConfigError, match="Did you mean 'lesion'"):
        built(spec_of("background", "lesion"), foreground="leson")


def test_an_image_without_labels_is_left_out_of_the_mean_over_images():
    logits, target = two_classes()
    target[1] = IGNORE
    two = torch.tensor([0, 2])
    loss = built(per_image=True)
    assert loss(logits, target).item() == pytest.approx(loss(logits[two], target[two]).item(), rel=1e-12)


def test_the_contract_holds_per_image():
    check_loss(lovasz_hinge, {"per_image": True})
