"""Pixels of each class in the training data, for class weights and for later comparison with predictions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from segtasks.training.data import Samples
from segtasks.training.group import sum_over_ranks
from segtasks.training.order import share
from segtasks.transforms.histogram import class_pixels

most_images = 10_000


def count_class_pixels(samples: Samples, *, rank: int = 0, world: int = 1, threads: int = 1) -> NDArray[np.int64]:
    """Labelled pixels of each of the model's classes; ignored ones are not counted.

    As recorded by ingest and preprocess. Where that is not, masks are decoded: of more than 10,000 images, 10,000 evenly spaced ones. Each
    rank counts its share; all get the sum.
    """
    recorded = samples.class_pixels()
    if recorded is not None:
        return recorded
    images = min(len(samples), most_images)
    start, stop = share(images, world, rank)
    classes = samples.spec.num_classes

    def count(number: int) -> NDArray[np.int64]:
        mask = samples.load_mask(number * len(samples) // images)
        return class_pixels(mask, classes)

    total = np.zeros(classes, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for counts in pool.map(count, range(start, stop)):
            total += counts
    return sum_over_ranks(torch.from_numpy(total), world).numpy()
