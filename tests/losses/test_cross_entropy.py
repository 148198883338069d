from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from segtasks.config import Plugin
from segtasks.errors import ConfigError, InputError
from segtasks.losses import cross_entropy, weighted_cross_entropy
from segtasks.losses.weighted_cross_entropy import class_weights
from segtasks.plugins import configure
from segtasks.spec import ClassSpec, DatasetSpec


def spec_of(classes: int, ignore_index: int = 255) -> DatasetSpec:
    return DatasetSpec(
        name="made", classes=tuple(ClassSpec(name=f"c{i}", color=(i, i, i)) for i in range(classes)), ignore_index=ignore_index
    )


def random_case(classes: int = 5, ignore_index: int = 255, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64) * 3
    target = torch.randint(0, classes, (2, 6, 7), generator=random)
    target[torch.rand(2, 6, 7, generator=random) < 0.3] = ignore_index
    return logits, target


def numpy_cross_entropy(logits, target, ignore_index, weights=None, smoothing=0.0):
    """Pixel by pixel, as the formula reads."""
    log_p = log_softmax(logits.numpy(), axis=1)
    count = logits.shape[1]
    weights = np.ones(count) if weights is None else np.asarray(weights)
    total = norm = 0.0
    for n, y, x in np.ndindex(*target.shape):
        t = int(target[n, y, x])
        if t != ignore_index:
            total += weights[t] * (-(1 - smoothing) * log_p[n, t, y, x] - smoothing / count * log_p[n, :, y, x].sum())
            norm += weights[t]
    return total / norm


@pytest.mark.parametrize("ignore_index", [255, 5, 60000])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_what_numpy_computes_pixel_by_pixel(ignore_index, smoothing):
    logits, target = random_case(ignore_index=ignore_index)
    loss = cross_entropy.build(cross_entropy.Config(label_smoothing=smoothing), spec_of(5, ignore_index), [1] * 5)
    assert loss(logits, target).item() == pytest.approx(numpy_cross_entropy(logits, target, ignore_index, smoothing=smoothing), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_is_what_numpy_computes_pixel_by_pixel(smoothing):
    logits, target = random_case()
    fixed = {"c0": 0.25, "c1": 1.0, "c2": 2.0, "c3": 0.0, "c4": 8.0}  # exact in float32
    config = weighted_cross_entropy.Config(weights="fixed", fixed=fixed, label_smoothing=smoothing)
    loss = weighted_cross_entropy.build(config, spec_of(5), [1] * 5)
    expected = numpy_cross_entropy(logits, target, 255, list(fixed.values()), smoothing)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_weighted_cross_entropy_is_torchs_own_weighted_mean():
    logits, target = random_case(seed=1)
    pixels = [1000, 10, 0, 500, 77]
    loss = weighted_cross_entropy.build(weighted_cross_entropy.Config(weights="median"), spec_of(5), pixels)
    weights = torch.tensor(class_weights(weighted_cross_entropy.Config(weights="median"), spec_of(5), pixels), dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits, target, weights, ignore_index=255)
    assert loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_worked_example():
    """Two pixels, two classes, by hand: logits (0, ln 3) give p = (1/4, 3/4)."""
    logits = torch.tensor([[[[0.0, 0.0]], [[math.log(3), math.log(3)]]]], dtype=torch.float64)
    target = torch.tensor([[[0, 1]]])
    plain = cross_entropy.build(cross_entropy.Config(), spec_of(2), [1, 1])
    assert plain(logits, target).item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    weighted = weighted_cross_entropy.build(weighted_cross_entropy.Config(weights="inverse"), spec_of(2), [25, 75])  # weights 2 and 2/3
    assert weighted(logits, target).item() == pytest.approx((2 * math.log(4) + 2 / 3 * math.log(4 / 3)) / (2 + 2 / 3), rel=1e-6)


def test_class_weights_by_hand():
    pixels = [600, 300, 100, 0]
    spec = spec_of(4)
    assert class_weights(weighted_cross_entropy.Config(weights="inverse", absent=7), spec, pixels) == pytest.approx(
        [1 / (3 * 0.6), 1 / (3 * 0.3), 1 / (3 * 0.1), 7]
    )
    assert class_weights(weighted_cross_entropy.Config(weights="median", absent=0), spec, pixels) == pytest.approx([0.5, 1, 3, 0])
    assert class_weights(weighted_cross_entropy.Config(), spec, pixels) == pytest.approx(
        [1 / math.log(1.62), 1 / math.log(1.32), 1 / math.log(1.12), 1.0]
    )


def test_inverse_weights_are_scikit_learns_balanced_weights():
    compute_class_weight = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    labels = np.repeat(np.arange(4), [5, 50, 1, 9])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    ours = class_weights(weighted_cross_entropy.Config(weights="inverse"), spec_of(4), np.bincount(labels).tolist())
    assert ours == pytest.approx(expected.tolist())


def test_log_weights_stay_within_enets_bounds():
    weights = class_weights(weighted_cross_entropy.Config(), spec_of(2), [10**12, 1])
    assert weights == pytest.approx([1 / math.log(2.02), 1 / math.log(1.02)], rel=1e-6)


@pytest.mark.parametrize("weights", ["inverse", "median", "log"])
def test_weights_of_data_without_labels_are_an_input_error(weights):
    with pytest.raises(InputError, match="no labelled pixel"):
        weighted_cross_entropy.build(weighted_cross_entropy.Config(weights=weights), spec_of(3), [0, 0, 0])


def test_a_fixed_weight_for_no_class_is_a_config_error_with_a_suggestion():
    spec = DatasetSpec(name="made", classes=(ClassSpec(name="pedestrian", color=(1, 2, 3)),))
    with pytest.raises(ConfigError, match="Did you mean 'pedestrian'"):
        weighted_cross_entropy.build(weighted_cross_entropy.Config(weights="fixed", fixed={"pedestrain": 2}), spec, [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "fixed"}, "exactly when"),
        ({"fixed": {"a": 1}}, "exactly when"),
        ({"weights": "fixed", "fixed": {"a": -1}}, "needed: a number >= 0"),
        ({"weights": "fixed", "fixed": {"a": float("nan")}}, "needed: a number >= 0"),
        ({"weights": "frequency"}, "Input should be 'inverse'"),
        ({"log_offset": 1.0}, "greater than 1"),
    ],
)
def test_wrong_weight_options_are_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("losses", Plugin(name="weighted_cross_entropy", options=options))


def test_perfect_predictions_cost_nothing_and_smoothing_has_its_stated_minimum():
    target = torch.arange(4).reshape(1, 2, 2)
    logits = torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2).double() * 200
    assert cross_entropy.build(cross_entropy.Config(), spec_of(4), [1] * 4)(logits, target).item() == pytest.approx(0, abs=1e-12)
    smooth = cross_entropy.build(cross_entropy.Config(label_smoothing=0.4), spec_of(4), [1] * 4)
    p = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)  # 1 - e + e/C, and e/C
    best = p.log()[(torch.arange(4) - target.unsqueeze(-1)) % 4].permute(0, 3, 1, 2)
    entropy = -(p * p.log()).sum().item()
    assert smooth(best, target).item() == pytest.approx(entropy)
    assert smooth(best * 1.01, target).item() > entropy


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5, dtype=torch.int64), "same N, H, W"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), "4 channels; the data set has 3 classes"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), "needed: int64"),
        (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 3), r"holds \[3\]; needed: classes 0..2 or the ignore value 255"),
        (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), -1), r"holds \[-1\]"),
    ],
)
def test_what_does_not_fit_is_said(logits, target, message):
    loss = cross_entropy.build(cross_entropy.Config(), spec_of(3), [1] * 3)
    with pytest.raises(ValueError, match=message):
        loss(logits, target)


def test_a_batch_without_weight_costs_zero():
    loss = weighted_cross_entropy.build(weighted_cross_entropy.Config(weights="fixed", fixed={"c1": 0.0}), spec_of(2), [1, 1])
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    value = loss(logits, torch.ones(1, 3, 3, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0


def test_ignored_pixels_with_infinite_loss_do_not_make_the_value_nan():
    loss = cross_entropy.build(cross_entropy.Config(), spec_of(2), [1, 1])
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 0, 0, 1] = -math.inf  # class 0 impossible at the ignored pixel
    assert loss(logits, torch.tensor([[[0, 255]]])).item() == pytest.approx(math.log(2))


def test_the_weights_are_no_part_of_a_checkpoint():
    loss = weighted_cross_entropy.build(weighted_cross_entropy.Config(), spec_of(2), [1, 1])
    assert loss.state_dict() == {}
