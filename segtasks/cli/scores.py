"""Scores of an evaluation, or of a validation during training, as lines of text."""

from __future__ import annotations

from typing import Any

from segtasks.cli.outcome import table

_MEANS = (("miou", "mIoU"), ("mean_dice", "mean Dice"), ("mean_accuracy", "mean accuracy"), ("pixel_accuracy", "pixel accuracy"))
_BY_CLASS = ("iou", "dice", "accuracy", "precision")


def score_lines(scores: dict[str, Any]) -> list[str]:
    """The classes, the means, and the policy that the numbers follow."""
    rows = [[item["name"], *(item[key] for key in _BY_CLASS), item["truth"]] for item in scores["classes"]]
    means = [[title, scores[key]] for key, title in _MEANS]
    return [*table(rows, ("class", "IoU", "Dice", "accuracy", "precision", "pixels")), "", *table(means), "", scores["policy"]]
