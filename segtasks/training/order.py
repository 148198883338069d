"""Which images make up which batch: pure arithmetic of (seed, epoch), the same on any number of ranks.

An epoch of n images is ceil(n / batch_size) global batches whose sizes differ by at most one: every image comes exactly once,
and there is no small last batch. Each batch is cut over the ranks in the same way, so the number of ranks changes no batch.

Images are shuffled within windows of a few shards, and the windows' shards are shuffled too: an epoch reads each shard once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import ConfigError
from segtasks.transforms.seeding import generator

Indices = NDArray[np.int64]


def share(total: int, parts: int, part: int) -> tuple[int, int]:
    """Start and stop of one of `parts` consecutive shares of `total` things; their sizes differ by at most one."""
    return part * total // parts, (part + 1) * total // parts


class EpochOrder:
    """The order of the images of a split, given the number of images in each of its shards."""

    def __init__(self, shard_images: Sequence[int], *, seed: int, shuffle_shards: int, batch_size: int) -> None:
        self.images = sum(shard_images)
        self.batches = -(-self.images // batch_size)
        self._first = np.concatenate([[0], np.cumsum(shard_images)]).astype(np.int64)
        self._seed = seed
        self._window_shards = shuffle_shards
        self._window = lru_cache(maxsize=2)(self._make_window)
        self._windows = lru_cache(maxsize=2)(self._make_windows)

    def require_ranks(self, world: int) -> None:
        """Raise unless every rank gets at least one image of every batch."""
        smallest = self.images // max(1, self.batches)
        if world > smallest:
            raise ConfigError(
                f"{world} workers cannot share batches of {smallest} images ({self.images} images an epoch); "
                "use a larger batch_size or fewer workers"
            )

    def batch(self, epoch: int, batch: int, *, rank: int = 0, world: int = 1) -> Indices:
        """Indices of the images of one rank's part of a global batch."""
        start, stop = share(self.images, self.batches, batch)
        first, last = share(stop - start, world, rank)
        return self.indices(epoch, start + first, start + last)

    def batch_images(self, batch: int) -> int:
        """How many images the global batch has."""
        start, stop = share(self.images, self.batches, batch)
        return stop - start

    def indices(self, epoch: int, start: int, stop: int) -> Indices:
        """Places `start` to `stop` of the epoch's order, as indices into the split."""
        ends = self._windows(epoch)[1]
        parts: list[Indices] = []
        window = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            begin = int(ends[window - 1]) if window else 0
            part = self._window(epoch, window)[start - begin : stop - begin]
            parts.append(part)
            start += len(part)
            window += 1
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _make_windows(self, epoch: int) -> tuple[Indices, Indices]:
        """The epoch's shard order, and where each window of it ends in images."""
        shards = generator(self._seed, "shards", epoch).permutation(len(self._first) - 1)
        sizes = np.diff(self._first)[shards]
        starts = np.arange(0, len(shards), self._window_shards)
        return shards, np.cumsum(np.add.reduceat(sizes, starts)) if len(shards) else np.empty(0, np.int64)

    def _make_window(self, epoch: int, window: int) -> Indices:
        shards = self._windows(epoch)[0][window * self._window_shards : (window + 1) * self._window_shards]
        members = np.concatenate([np.arange(self._first[shard], self._first[shard + 1]) for shard in np.sort(shards)])
        return generator(self._seed, "window", epoch, window).permutation(members)
