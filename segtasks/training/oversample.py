"""How often an image comes in an epoch: more often where it has a rare class. A factor of 1.3 is once, and in three of ten epochs twice.

Repeat factors: Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, section 5.2:
with f_c the share of images that have class c and t a threshold, r_c = max(1, sqrt(t / f_c)) and r_i = max of r_c over the image's classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segtasks.transforms.seeding import generator

_unit = 1_000_000  # fractions are counted in whole millionths, so that every machine chooses the same images


def repeat_factors(present: NDArray[np.bool_], threshold: float, power: float = 0.5) -> NDArray[np.float64]:
    """r_i of each image, 1 or more. `present`: images x classes; `power` is 1/2 in the paper. An image without a class has 1."""
    share = present.mean(axis=0)
    factors = np.ones(present.shape[1])
    factors[share > 0] = np.maximum(1, (threshold / share[share > 0]) ** power)
    largest: NDArray[np.float64] = np.where(present, factors, 1.0).max(axis=1, initial=1.0)
    return largest


class Repeats:
    """How often each image comes, epoch by epoch: the whole part of its factor, and once more in that share of the epochs that is left.

    Pure arithmetic of (seed, epoch). Every epoch has the same number of images, `total`, so a fraction is met up to one image in all.
    """

    def __init__(self, factors: NDArray[np.float64], seed: int) -> None:
        millionths = np.rint(factors * _unit).astype(np.int64)
        self._whole, self._rest = millionths // _unit, millionths % _unit
        self._seed = seed
        self._chosen = int(self._rest.sum()) // _unit
        self.total = int(self._whole.sum()) + self._chosen

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """How often each image comes in the epoch.

        Systematic sampling over a random order (Madow 1949): points a step apart, a step longer than any fraction, so none is hit twice.
        """
        counts = self._whole.copy()
        if self._chosen:
            random = generator(self._seed, "repeats", epoch)
            order = random.permutation(len(counts))
            ends = np.cumsum(self._rest[order])
            step = int(ends[-1]) // self._chosen
            first = int(random.integers(int(ends[-1]) - (self._chosen - 1) * step))
            points = first + step * np.arange(self._chosen, dtype=np.int64)
            counts[order[np.searchsorted(ends, points, side="right")]] += 1
        return counts
