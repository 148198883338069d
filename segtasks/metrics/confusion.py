"""Confusion matrix: IoU, Dice and accuracy, by class and on average, from one count of (truth, prediction) pixel pairs.

Scores are of all images together, never means over images. What each average leaves out is in the result's `policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, LabelError, ShapeError, did_you_mean
from segtasks.metrics._base import IntArray
from segtasks.metrics._pairs import count_pairs
from segtasks.spec import DatasetSpec


class Config(BaseConfig):
    """Confusion matrix and what follows from it."""

    exclude: tuple[str, ...] = Field(default=(), description="names of classes left out of the means, such as a background")


class ClassScore(BaseConfig):
    """One class over all images. A score is none where it would divide by zero."""

    name: str = Field(description="class name")
    iou: float | None = Field(description="intersection / (truth + predicted - intersection)")
    dice: float | None = Field(description="2 intersection / (truth + predicted)")
    accuracy: float | None = Field(description="intersection / truth, also called recall")
    precision: float | None = Field(description="intersection / predicted")
    intersection: int = Field(description="pixels of the class that were predicted as it")
    truth: int = Field(description="pixels of the class: its support")
    predicted: int = Field(description="counted pixels predicted as the class")


class Result(BaseConfig):
    """What `ConfusionMatrix.result` gives, typed. Values are not rounded."""

    miou: float | None = Field(description="mean of the defined IoUs of the classes that are not excluded")
    mean_dice: float | None = Field(description="mean of the defined Dice values, over the same classes")
    mean_accuracy: float | None = Field(description="mean of the defined accuracies: over classes that the truth holds")
    pixel_accuracy: float | None = Field(description="share of counted pixels whose prediction is right")
    classes: tuple[ClassScore, ...] = Field(description="in index order")
    undefined: tuple[str, ...] = Field(description="classes in neither truth nor prediction: in no mean")
    excluded: tuple[str, ...] = Field(description="classes that the configuration leaves out of the means")
    images: int = Field(description="images counted")
    valid_pixels: int = Field(description="pixels whose truth is a class: the ones that count")
    ignored_pixels: int = Field(description="pixels whose truth is the ignore value")
    unassigned_pixels: int = Field(description="counted pixels whose prediction is the ignore value: wrong for their class")
    confusion: tuple[tuple[int, ...], ...] = Field(description="pixels; a row a true class, a column a predicted one, the last: no class")
    policy: str = Field(description="what was counted and what the means leave out, in words")


@dataclass(frozen=True)
class ImageCounts:
    """What one image adds, in pixels by class over the pixels that count: an evaluation's row. Also of a batch, if that was counted."""

    valid_pixels: int
    ignored_pixels: int
    intersection: tuple[int, ...]
    predicted: tuple[int, ...]
    truth: tuple[int, ...]
    miou: float | None  # over the classes in its truth or prediction that are not excluded


def build(config: Config, spec: DatasetSpec) -> ConfusionMatrix:
    """An empty matrix for the spec's classes. Raises `ConfigError` without classes, or when `exclude` names none or all of them."""
    if not spec.classes:
        raise ConfigError(f"data set {spec.name!r} has no classes, so there is nothing to score; needed: samples with masks")
    for name in config.exclude:
        if name not in spec.names:
            raise ConfigError(f"confusion.options.exclude: no class is called {name!r}.{did_you_mean(name, spec.names)}")
    if set(spec.names) <= set(config.exclude):
        raise ConfigError("confusion.options.exclude names every class; needed: at least one that counts")
    return ConfusionMatrix(spec, config.exclude)


class ConfusionMatrix:
    """Pixel counts by (true class, predicted class). `matrix` is C x (C + 1): the last column holds predictions of no class."""

    def __init__(self, spec: DatasetSpec, exclude: tuple[str, ...] = ()) -> None:
        self.names = tuple(spec.names)
        self.ignore_index = spec.ignore_index
        self.exclude = exclude
        self.matrix: NDArray[np.int64] = np.zeros((len(self.names), len(self.names) + 1), np.int64)
        self.ignored_pixels = 0
        self.images = 0

    def update(self, prediction: IntArray, truth: IntArray) -> ImageCounts:
        """Count one image (H x W) or a batch (N x H x W) and return what it adds.

        Pixels whose truth is the ignore value count nowhere; the ignore value as a prediction is a wrong one. Raises `ShapeError`
        where the sizes differ and `LabelError` for values that are neither a class nor the ignore value.
        """
        if prediction.shape != truth.shape or truth.ndim not in (2, 3):
            raise ShapeError(
                f"the prediction is {_size(prediction)} and the truth is {_size(truth)}; needed: masks of one size, H x W or N x H x W"
            )
        truths, predictions, counts = count_pairs(truth, prediction)
        self._check("truth", truths)
        self._check("prediction", predictions)
        valid = truths != self.ignore_index
        rows, columns = self.matrix.shape
        index = truths[valid] * columns + np.minimum(predictions[valid], columns - 1)
        # bincount adds weights as float64, which is exact for counts below 2^53
        added = np.bincount(index, counts[valid], minlength=rows * columns).astype(np.int64).reshape(rows, columns)
        ignored = truth.size - int(added.sum())
        self.matrix += added
        self.ignored_pixels += ignored
        self.images += truth.shape[0] if truth.ndim == 3 else 1
        return self._image_counts(added, ignored)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix of the same classes. Raises `ValueError` when they differ."""
        if (other.names, other.ignore_index, other.exclude) != (self.names, self.ignore_index, self.exclude):
            raise ValueError(f"confusion matrices of different classes cannot be added: {other.names} and {self.names}")
        self.matrix += other.matrix
        self.ignored_pixels += other.ignored_pixels
        self.images += other.images

    def state(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {"matrix": self.matrix.tolist(), "ignored_pixels": self.ignored_pixels, "images": self.images}

    def merge_state(self, state: Mapping[str, Any]) -> None:
        """Add counts that `state` gave. Raises `ValueError` when they are of another number of classes."""
        matrix = np.asarray(state["matrix"], np.int64)
        if matrix.shape != self.matrix.shape:
            raise ValueError(f"counts of shape {matrix.shape} cannot be added to a matrix of {self.matrix.shape}")
        self.matrix += matrix
        self.ignored_pixels += int(state["ignored_pixels"])
        self.images += int(state["images"])

    def result(self) -> dict[str, Any]:
        """`scores()` as JSON."""
        return self.scores().model_dump(mode="json")

    def scores(self) -> Result:
        """Score what was counted so far."""
        intersection, predicted, truth = _marginals(self.matrix)
        union = truth + predicted - intersection
        counted = np.array([name not in self.exclude for name in self.names])
        iou, dice = _ratio(intersection, union), _ratio(2 * intersection, truth + predicted)
        accuracy, precision = _ratio(intersection, truth), _ratio(intersection, predicted)
        valid_pixels = int(truth.sum())
        undefined = tuple(name for name, pixels in zip(self.names, union, strict=True) if pixels == 0)
        only_predicted = [name for name, t, p in zip(self.names, truth, predicted, strict=True) if t == 0 and p > 0]
        unassigned = int(self.matrix[:, -1].sum())
        images = "1 image" if self.images == 1 else f"{self.images:,} images"
        return Result(
            miou=_mean(iou[counted]),
            mean_dice=_mean(dice[counted]),
            mean_accuracy=_mean(accuracy[counted]),
            pixel_accuracy=float(intersection.sum() / valid_pixels) if valid_pixels else None,
            classes=tuple(
                ClassScore(
                    name=name,
                    iou=_number(iou[index]),
                    dice=_number(dice[index]),
                    accuracy=_number(accuracy[index]),
                    precision=_number(precision[index]),
                    intersection=int(intersection[index]),
                    truth=int(truth[index]),
                    predicted=int(predicted[index]),
                )
                for index, name in enumerate(self.names)
            ),
            undefined=undefined,
            excluded=self.exclude,
            images=self.images,
            valid_pixels=valid_pixels,
            ignored_pixels=self.ignored_pixels,
            unassigned_pixels=unassigned,
            confusion=tuple(tuple(row) for row in self.matrix.tolist()),
            policy=" ".join(
                [
                    f"{valid_pixels:,} pixels of {images} count, all images together (no mean over images);",
                    f"{self.ignored_pixels:,} whose truth is the ignore value {self.ignore_index} count nowhere.",
                    f"mIoU and mean Dice are over {int((counted & (union > 0)).sum())} of {len(self.names)} classes:",
                    f"left out as absent from both truth and prediction: {_list(undefined)};",
                    f"left out by configuration: {_list(self.exclude)};",
                    f"counted with 0 as predicted but absent from the truth: {_list(only_predicted)}.",
                    f"Mean accuracy is over the {int((counted & (truth > 0)).sum())} of these that the truth holds.",
                    f"A prediction of the ignore value is wrong for its pixel's class ({unassigned:,} pixels).",
                    "Scores are computed from whole counts and stored unrounded.",
                ]
            ),
        )

    def _check(self, what: str, values: NDArray[np.int64]) -> None:
        wrong = values[((values >= len(self.names)) | (values < 0)) & (values != self.ignore_index)]
        if wrong.size:
            raise LabelError(
                f"the {what} holds {np.unique(wrong)[:5].tolist()}; needed: classes 0..{len(self.names) - 1} "
                f"or the ignore value {self.ignore_index}"
            )

    def _image_counts(self, added: NDArray[np.int64], ignored: int) -> ImageCounts:
        intersection, predicted, truth = _marginals(added)
        counted = np.array([name not in self.exclude for name in self.names])
        return ImageCounts(
            valid_pixels=int(truth.sum()),
            ignored_pixels=ignored,
            intersection=tuple(intersection.tolist()),
            predicted=tuple(predicted.tolist()),
            truth=tuple(truth.tolist()),
            miou=_mean(_ratio(intersection, truth + predicted - intersection)[counted]),
        )


def _marginals(matrix: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels by class: intersection, predicted, truth."""
    return matrix.diagonal().copy(), matrix[:, :-1].sum(axis=0), matrix.sum(axis=1)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """NaN where `whole` is 0."""
    result: NDArray[np.float64] = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _list(names: tuple[str, ...] | list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _size(mask: IntArray) -> str:
    return "x".join(str(side) for side in mask.shape) or "a single value"
