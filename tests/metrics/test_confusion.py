from __future__ import annotations

import json

import numpy as np
import pytest

from segtasks.config import Plugin
from segtasks.errors import ConfigError, LabelError, ShapeError
from segtasks.metrics import confusion
from segtasks.metrics._pairs import count_pairs
from segtasks.plugins import configure
from segtasks.spec import ClassSpec, DatasetSpec


def spec_of(*names: str, ignore_index: int = 255) -> DatasetSpec:
    return DatasetSpec(name="made", classes=tuple(ClassSpec(name=name, color=(0, 0, 0)) for name in names), ignore_index=ignore_index)


def made(*names: str, exclude: tuple[str, ...] = (), ignore_index: int = 255) -> confusion.ConfusionMatrix:
    return confusion.build(confusion.Config(exclude=exclude), spec_of(*names, ignore_index=ignore_index))


def mask(*rows: list[int], dtype=np.uint8) -> np.ndarray:
    return np.array(rows, dtype)


def random_masks(classes: int, ignore: int, dtype, seed: int = 0, size: tuple[int, int] = (60, 80), noise: float = 0.2):
    """Blocks of 5x5 with noise, and some ignored pixels."""
    random = np.random.default_rng(seed)
    truth = np.kron(random.integers(0, classes, (size[0] // 5, size[1] // 5)), np.ones((5, 5))).astype(dtype)
    prediction = np.where(random.random(size) < noise, random.integers(0, classes, size), truth).astype(dtype)
    truth[random.random(size) < 0.1] = ignore
    return prediction, truth


def test_a_worked_example():
    metric = made("road", "sky")
    metric.update(prediction=mask([0, 0, 1], [1, 1, 0]), truth=mask([0, 1, 1], [1, 255, 0]))
    result = metric.scores()
    assert result.confusion == ((2, 0, 0), (1, 2, 0))
    assert [item.iou for item in result.classes] == [2 / 3, 2 / 3]
    assert [item.dice for item in result.classes] == [4 / 5, 4 / 5]
    assert [item.accuracy for item in result.classes] == [1.0, 2 / 3]
    assert [item.precision for item in result.classes] == [2 / 3, 1.0]
    assert [item.truth for item in result.classes] == [2, 3]
    assert [item.predicted for item in result.classes] == [3, 2]
    assert result.miou == pytest.approx(2 / 3)
    assert result.mean_dice == pytest.approx(4 / 5)
    assert result.mean_accuracy == pytest.approx(5 / 6)
    assert result.pixel_accuracy == 4 / 5
    assert (result.images, result.valid_pixels, result.ignored_pixels) == (1, 5, 1)


@pytest.mark.parametrize(
    ("classes", "ignore", "dtype"), [(11, 255, np.uint8), (2, 7, np.uint8), (300, 65535, np.uint16), (255, 255, np.uint8)]
)
@pytest.mark.parametrize("noise", [0.02, 1.0])
def test_counts_and_scores_are_scikit_learns(classes, ignore, dtype, noise):
    sklearn = pytest.importorskip("sklearn.metrics")
    metric = confusion.build(confusion.Config(), spec_of(*(f"c{i}" for i in range(classes)), ignore_index=ignore))
    truths, predictions = [], []
    for seed in range(3):
        prediction, truth = random_masks(classes, ignore, dtype, seed, noise=noise)
        metric.update(prediction, truth)
        valid = truth != ignore
        truths.append(truth[valid])
        predictions.append(prediction[valid])
    t, p = np.concatenate(truths), np.concatenate(predictions)
    labels = list(range(classes))
    assert np.array_equal(metric.matrix[:, :-1], sklearn.confusion_matrix(t, p, labels=labels))
    result = metric.scores()
    occurring = sorted(set(t) | set(p))
    ours = np.array([result.classes[label].iou for label in occurring], float)
    np.testing.assert_allclose(ours, sklearn.jaccard_score(t, p, labels=occurring, average=None), rtol=1e-12)
    assert result.miou == pytest.approx(sklearn.jaccard_score(t, p, labels=occurring, average="macro"), rel=1e-12)
    assert result.mean_dice == pytest.approx(sklearn.f1_score(t, p, labels=occurring, average="macro"), rel=1e-12)
    assert result.pixel_accuracy == pytest.approx(sklearn.accuracy_score(t, p), rel=1e-12)
    if set(t) == set(occurring):
        assert result.mean_accuracy == pytest.approx(sklearn.balanced_accuracy_score(t, p), rel=1e-12)


def test_a_class_in_neither_truth_nor_prediction_is_in_no_mean_and_is_named():
    metric = made("a", "b", "c")
    metric.update(mask([0, 0, 1, 0]), mask([0, 0, 1, 1]))
    result = metric.scores()
    assert result.classes[2].iou is None
    assert result.miou == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.undefined == ("c",)
    assert "over 2 of 3 classes: left out as absent from both truth and prediction: 1 (c);" in result.policy


def test_a_class_that_is_only_predicted_counts_with_zero_and_is_named():
    metric = made("a", "b")
    metric.update(mask([0, 1]), mask([0, 0]))
    result = metric.scores()
    assert (result.classes[1].iou, result.classes[1].dice, result.classes[1].accuracy) == (0.0, 0.0, None)
    assert result.miou == pytest.approx(0.25)
    assert result.mean_accuracy == 0.5
    assert "counted with 0 as predicted but absent from the truth: 1 (b)." in result.policy
    assert "Mean accuracy is over the 1 of these" in result.policy


def test_the_ignore_value_as_a_prediction_is_wrong_for_the_pixels_class():
    metric = made("a", "b")
    metric.update(mask([255, 0, 255]), mask([0, 0, 255]))
    result = metric.scores()
    assert result.confusion == ((1, 0, 1), (0, 0, 0))
    assert result.unassigned_pixels == 1
    assert (result.classes[0].iou, result.classes[0].predicted, result.pixel_accuracy) == (0.5, 1, 0.5)


def test_excluded_classes_leave_the_means_but_not_the_pixels():
    metric = made("background", "cell", exclude=("background",))
    counts = metric.update(mask([0, 0, 1, 0]), mask([0, 0, 1, 1]))
    result = metric.scores()
    assert result.miou == counts.miou == 0.5
    assert result.pixel_accuracy == 0.75
    assert result.excluded == ("background",)
    assert "left out by configuration: 1 (background);" in result.policy


def test_update_returns_what_the_image_adds():
    metric = made("a", "b", "c")
    metric.update(mask([2, 2]), mask([2, 2]))
    counts = metric.update(mask([0, 0, 1], [1, 1, 0]), mask([0, 1, 1], [1, 255, 0]))
    assert counts == confusion.ImageCounts(
        valid_pixels=5, ignored_pixels=1, intersection=(2, 2, 0), predicted=(3, 2, 0), truth=(2, 3, 0), miou=pytest.approx(2 / 3)
    )


def test_an_image_of_ignored_pixels_has_no_miou():
    metric = made("a", "b")
    assert metric.update(mask([0, 1]), mask([255, 255])).miou is None
    result = metric.scores()
    assert (result.miou, result.pixel_accuracy, result.mean_accuracy, result.mean_dice) == (None, None, None, None)
    assert (result.images, result.ignored_pixels) == (1, 2)


def test_the_images_counts_sum_to_the_matrix():
    metric = confusion.build(confusion.Config(), spec_of(*"abcdefg"))
    rows = [metric.update(*random_masks(7, 255, np.uint8, seed)) for seed in range(5)]
    result = metric.scores()
    for index, item in enumerate(result.classes):
        assert item.intersection == sum(row.intersection[index] for row in rows)
        assert item.predicted == sum(row.predicted[index] for row in rows)
        assert item.truth == sum(row.truth[index] for row in rows)


def test_the_result_goes_through_json_and_comes_back_typed():
    metric = confusion.build(confusion.Config(), spec_of(*"abc"))
    metric.update(*random_masks(3, 255, np.uint8))
    assert confusion.Result.model_validate(json.loads(json.dumps(metric.result()))) == metric.scores()


@pytest.mark.parametrize(
    ("prediction", "truth", "error", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), ShapeError, "prediction is 2x3 and the truth is 3x2"),
        (np.zeros(3, np.uint8), np.zeros(3, np.uint8), ShapeError, "needed: masks"),
        (mask([0, 9]), mask([0, 0]), LabelError, r"prediction holds \[9\]; needed: classes 0..1 or the ignore value 255"),
        (mask([0, 0]), mask([2, 9]), LabelError, r"truth holds \[2, 9\]"),
        (mask([0, -1], dtype=np.int64), mask([0, 0]), LabelError, r"prediction holds \[-1\]"),
        (mask([0, 70000], dtype=np.int64), mask([0, 0]), LabelError, r"prediction holds \[70000\]"),
        (mask([0, 300], dtype=np.uint16), mask([0, 0]), LabelError, r"prediction holds \[300\]"),
    ],
)
def test_masks_that_do_not_fit_are_data_faults(prediction, truth, error, message):
    metric = made("a", "b")
    with pytest.raises(error, match=message):
        metric.update(prediction, truth)
    assert metric.images == 0


def test_an_unknown_excluded_class_is_a_config_error_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'road'"):
        made("road", "sky", exclude=("raod",))
    with pytest.raises(ConfigError, match="every class"):
        made("road", exclude=("road",))
    with pytest.raises(ConfigError, match="Did you mean 'exclude'"):
        configure("metrics", Plugin(name="confusion", options={"excluded": ["road"]}))


def test_a_data_set_without_classes_cannot_be_scored():
    with pytest.raises(ConfigError, match="has no classes"):
        confusion.build(confusion.Config(), spec_of())


def test_matrices_of_other_classes_are_not_added():
    with pytest.raises(ValueError, match="different classes"):
        made("a", "b").merge(made("a", "c"))
    with pytest.raises(ValueError, match="cannot be added"):
        made("a", "b").merge_state(made("a", "b", "c").state())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("values", [2, 200, 60000])
@pytest.mark.parametrize("repeat", [1, 50])
def test_pairs_are_counted_like_a_dictionary_counts_them(dtype, values, repeat):
    random = np.random.default_rng(0)
    top = min(values, np.iinfo(dtype).max)
    first, second = (np.repeat(random.integers(0, top, 40), repeat).astype(dtype).reshape(-1, 8) for _ in range(2))
    expected: dict[tuple[int, int], int] = {}
    for pair in zip(first.reshape(-1).tolist(), second.reshape(-1).tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    counted: dict[tuple[int, int], int] = {}
    for a, b, count in zip(*(array.tolist() for array in count_pairs(first, second)), strict=True):
        counted[a, b] = counted.get((a, b), 0) + count
    assert counted == expected


def test_an_empty_mask_counts_nothing():
    metric = made("a")
    assert metric.update(np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.uint8)).valid_pixels == 0
