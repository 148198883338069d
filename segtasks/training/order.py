"""Which images make up which batch: pure arithmetic of (seed, epoch), the same on any number of ranks.

An epoch of n images is ceil(n / batch_size) global batches whose sizes differ by at most one: every image comes exactly once,
and there is no small last batch. Each batch is cut over the ranks in the same way, so the number of ranks changes no batch.

The shards are shuffled, then cut into windows of some bytes, and images are shuffled within a window: an epoch reads each shard
once and holds a window at a time. A data set smaller than a window is shuffled as a whole.

With `repeats` an image may come several times, in its window; for n images in all, index i + k n is image i after it came k times before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import ConfigError
from segtasks.training.oversample import Repeats
from segtasks.transforms.seeding import generator

Indices = NDArray[np.int64]


def share(total: int, parts: int, part: int) -> tuple[int, int]:
    """Start and stop of one of `parts` consecutive shares of `total` things; their sizes differ by at most one."""
    return part * total // parts, (part + 1) * total // parts


class EpochOrder:
    """The order of the images of a split, given the images and the bytes of each of its shards."""

    def __init__(
        self,
        shard_images: Sequence[int],
        shard_bytes: Sequence[int],
        *,
        seed: int,
        shuffle_bytes: int,
        batch_size: int,
        repeats: Repeats | None = None,
    ) -> None:
        self.images = repeats.total if repeats else sum(shard_images)  # of an epoch
        self.batches = -(-self.images // batch_size)
        self._first = np.concatenate([[0], np.cumsum(shard_images)]).astype(np.int64)
        self._seed = seed
        self._bytes = np.asarray(shard_bytes, np.int64)
        self._window_bytes = shuffle_bytes
        self._repeats = lru_cache(maxsize=2)(repeats.counts) if repeats else None
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

    def _make_windows(self, epoch: int) -> tuple[list[Indices], Indices]:
        """The shards of each window of the epoch, and where each window ends in images."""
        shards = generator(self._seed, "shards", epoch).permutation(len(self._bytes))
        before = np.cumsum(self._bytes[shards]) - self._bytes[shards]
        first = np.flatnonzero(np.diff(before // self._window_bytes)) + 1  # a window holds at most one shard more than its bytes
        windows = np.split(shards, first)
        images = np.diff(self._first)
        if self._repeats is not None:
            images = np.diff(np.concatenate([[0], np.cumsum(self._repeats(epoch))])[self._first])
        return windows, np.cumsum([int(images[window].sum()) for window in windows])

    def _make_window(self, epoch: int, window: int) -> Indices:
        shards = np.sort(self._windows(epoch)[0][window])
        members = np.concatenate([np.arange(self._first[shard], self._first[shard + 1]) for shard in shards])
        if self._repeats is not None:
            counts = self._repeats(epoch)[members]
            before = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            members = np.repeat(members, counts) + before * self._first[-1]
        return generator(self._seed, "window", epoch, window).permutation(members)
