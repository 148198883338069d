"""What is wrong with a mask by its histogram alone, and the histogram of a data set by split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.checks.config import CheckSettings, Finding
from segtasks.spec import DatasetSpec
from segtasks.transforms import histogram

Ints = NDArray[np.int64]


def class_pixels(mask: NDArray[np.unsignedinteger[Any]], spec: DatasetSpec) -> tuple[list[int], int]:
    """Pixels of each class, and how many are of none (ignored)."""
    counts = histogram.class_pixels(mask, spec.num_classes)
    return counts.tolist(), int(mask.size - counts.sum())


def background_of(spec: DatasetSpec, settings: CheckSettings) -> NDArray[np.bool_]:
    """Which classes count as nothing."""
    known = {name.casefold() for name in settings.background}
    return np.array([name.casefold() in known for name in spec.names], np.bool_)


def mask_kinds(counts: Ints, background: NDArray[np.bool_]) -> dict[str, Ints]:
    """By kind of finding the rows of `counts` (images x classes) that are of little use to a model."""
    total = counts.sum(axis=1)
    objects = counts[:, ~background].sum(axis=1)
    classes = (counts > 0).sum(axis=1)
    ignored = total == 0
    empty = ~ignored & (objects == 0)
    one = (classes == 1) & (objects > 0) if counts.shape[1] > 1 else np.zeros(len(counts), np.bool_)
    return {"ignored_mask": np.flatnonzero(ignored), "empty_mask": np.flatnonzero(empty), "one_class_mask": np.flatnonzero(one)}


class ClassTotals:
    """Pixels of each class, and images that have it, by split; shards are added one by one."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self.pixels: dict[str, Ints] = {}
        self.images: dict[str, Ints] = {}
        self.ignored: dict[str, int] = {}
        self.labelled: dict[str, int] = {}  # images with truth

    def add(self, split: str, counts: Ints, ignored: int) -> None:
        """`counts`: images x classes."""
        zero = np.zeros(self._num_classes, np.int64)
        self.pixels[split] = self.pixels.get(split, zero) + counts.sum(axis=0)
        self.images[split] = self.images.get(split, zero) + (counts > 0).sum(axis=0)
        self.ignored[split] = self.ignored.get(split, 0) + ignored
        self.labelled[split] = self.labelled.get(split, 0) + len(counts)

    def findings(self, names: Sequence[str], settings: CheckSettings) -> Iterator[Finding]:
        """Classes that a split lacks, or has in few images. One that no split has comes once, with no split."""
        labelled = {split: count for split, count in self.labelled.items() if count}
        for index, name in enumerate(names):
            images = {split: int(self.images[split][index]) for split in labelled}
            if labelled and not any(images.values()):
                yield Finding(kind="class_unseen", what=f"{name} has no pixel in any of {sum(labelled.values()):,} images")
                continue
            for split, count in images.items():
                if count == 0:
                    yield Finding(kind="class_unseen", split=split, what=f"{name} has no pixel in {_named(split, labelled[split])}")
                elif count < settings.rare_share * labelled[split]:
                    share = count / labelled[split]
                    yield Finding(
                        kind="class_rare", split=split, what=f"{name} is in {count:,} of {_named(split, labelled[split])} ({share:.2%})"
                    )


def _named(split: str, count: int) -> str:
    return f"{split or 'all'}'s {count:,} images" if split else f"{count:,} images"
