"""From shards to batches: read, decode, map classes, augment, in threads ahead of the model.

`Samples` gives single images and keeps decoded ones up to a budget of bytes; `Loader` makes batches of them in the order it
is told. A row that cannot be decoded stops the run: ingest has quarantined what is bad, so such a row is damage.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segtasks.errors import CorruptError, DataFault, InputError
from segtasks.shards import Snapshot
from segtasks.spec import DatasetSpec
from segtasks.training.classes import index_table, lookup_table
from segtasks.training.index import SplitIndex
from segtasks.transforms.augment import augment
from segtasks.transforms.config import AugmentConfig

Image = NDArray[np.uint8]
Mask = NDArray[np.unsignedinteger[Any]]


class Samples:
    """Images and masks of a split in the model's classes, by index. Safe to use from several threads."""

    def __init__(
        self, snapshot: Snapshot, index: SplitIndex, spec: DatasetSpec, class_map: dict[str, str], *, cache_bytes: int, held_bytes: int
    ) -> None:
        """`spec` is the model's; `held_bytes`: encoded shards kept in memory."""
        self.index = index
        self.spec = spec
        self._snapshot = snapshot
        self._table = lookup_table(snapshot.spec, class_map, spec)
        self._classes = index_table(snapshot.spec.classes, class_map, spec.classes)
        self._shards = _RecentShards(self._read_shard, [shard.record.bytes for shard in index.shards], held_bytes)
        self._decoded: dict[int, tuple[Image, Mask]] = {}
        self._free_bytes = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.index)

    def class_pixels(self) -> NDArray[np.int64] | None:
        """Labelled pixels of each of the model's classes, as recorded, without decoding a mask; None where an image does not say."""
        recorded = self.index.class_pixels()
        if recorded is None:
            return None
        pixels = np.zeros(self.spec.num_classes, np.int64)
        np.add.at(pixels, self._classes, recorded)
        return pixels

    def present(self) -> NDArray[np.bool_]:
        """Which of the model's classes each image has: images x classes. `InputError` where an image does not say."""
        recorded = self.index.present(len(self._classes))
        if recorded is None:
            raise InputError(
                f"{self._snapshot.ref} does not say which classes its images have (an image without mask, or made by an older version); "
                "needed for oversampling: choose labelled images with where, or run `segtasks ingest` anew"
            )
        present = np.zeros((len(self), self.spec.num_classes), np.bool_)
        for place, index in enumerate(self._classes):
            present[:, index] |= recorded[:, place]
        return present

    def load(self, index: int) -> tuple[Image, Mask]:
        """uint8 RGB HxWx3 and class indices HxW of the same size. Do not write into them: they may be shared."""
        kept = self._decoded.get(index)
        if kept is not None:
            return kept
        image, mask = self._decode(index)
        size = image.nbytes + mask.nbytes
        with self._lock:
            # filled once and never evicted: an epoch visits everything in turn, where replacing the oldest would never hit
            if index not in self._decoded and size <= self._free_bytes:
                self._decoded[index] = image, mask
                self._free_bytes -= size
        return image, mask

    def load_mask(self, index: int) -> Mask:
        """The mask alone, in the model's classes."""
        kept = self._decoded.get(index)
        return kept[1] if kept is not None else self._decode_mask(index)

    def _encoded(self, index: int) -> dict[str, Any]:
        shard, row = self.index.locate(index)
        found: dict[str, Any] = self._shards.get(shard).slice(row, 1).to_pylist()[0]
        return found

    def _decode(self, index: int) -> tuple[Image, Mask]:
        from segtasks.codecs.image import decode_image

        data = (self._encoded(index)["image"] or {}).get("bytes")
        if data is None:
            raise InputError(f"{self._name(index)} is stored by reference; training needs its bytes: run `segtasks preprocess` first")
        try:
            image: Image = decode_image(data, self._snapshot.spec.decode).pixels
        except DataFault as error:
            raise CorruptError(f"{self._name(index)} does not decode any more: {error}; run `segtasks verify`") from error
        mask = self._decode_mask(index)
        if image.shape[:2] != mask.shape:
            raise CorruptError(f"{self._name(index)}: the image is {_size(image)} and its mask {_size(mask)}; they must be equal")
        return image, mask

    def _decode_mask(self, index: int) -> Mask:
        from segtasks.codecs.mask import decode_mask

        data = (self._encoded(index)["mask"] or {}).get("bytes")
        if data is None:
            raise InputError(f"{self._name(index)} has no mask; training needs labelled images: choose them with where or another split")
        try:
            stored = decode_mask(data, self._snapshot.spec.decode.max_pixels)
        except DataFault as error:
            raise CorruptError(f"the mask of {self._name(index)} does not decode any more: {error}; run `segtasks verify`") from error
        mask: Mask = self._table[stored]
        return mask

    def _read_shard(self, shard: int) -> pa.Table:
        rows = self.index.shards[shard]
        return self._snapshot.read(rows.record, ["image", "mask"]).take(pa.array(rows.places)).combine_chunks()

    def _name(self, index: int) -> str:
        return f"image {self.index.image_id(index)!r} of {self._snapshot.ref}"


class _RecentShards:
    """The encoded shards used last, at least one of them. Two threads that want the same shard read it once."""

    def __init__(self, read: Callable[[int], pa.Table], sizes: Sequence[int], held_bytes: int) -> None:
        self._read = read
        self._sizes = sizes
        self._free_bytes = held_bytes
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, shard: int) -> pa.Table:
        with self._lock:
            if shard not in self._held:
                self._held[shard] = _Held()
                self._free_bytes -= self._sizes[shard]
            held = self._held[shard]
            self._held.move_to_end(shard)
            while self._free_bytes < 0 and len(self._held) > 1:
                oldest, _ = self._held.popitem(last=False)
                self._free_bytes += self._sizes[oldest]
        with held.reading:
            if held.table is None:
                held.table = self._read(shard)
            return held.table


class _Held:
    def __init__(self) -> None:
        self.reading = threading.Lock()
        self.table: pa.Table | None = None


@dataclass(frozen=True)
class Batch:
    """`images_NHWC` uint8 RGB, `masks_NHW` class indices; `tag` is what the loader was told to call it."""

    tag: tuple[int, int]
    ids: list[str]
    images_NHWC: Image
    masks_NHW: Mask


class Loader:
    """Batches in the order of `plan`, made by threads at most `prefetch` batches ahead. Use it as a context manager.

    `plan` yields (tag, indices of the images); an index beyond the last image is one that comes again (see `EpochOrder`).
    `prepare(epoch, key, image, mask)` is applied to each; `tag[0]` is the epoch, `key` the image's id and how often it came before, if
    it did: it is augmented in another way each time. `waited` is the seconds that the consumer has waited for batches so far.
    """

    def __init__(
        self,
        samples: Samples,
        plan: Iterable[tuple[tuple[int, int], Sequence[int] | NDArray[np.int64]]],
        prepare: Callable[[int, str, Image, Mask], tuple[Image, Mask]] | None,
        *,
        threads: int,
        prefetch: int,
    ) -> None:
        self.waited = 0.0
        self._samples = samples
        self._plan = iter(plan)
        self._prepare = prepare
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="segtasks-loader")
        self._prefetch = prefetch
        self._ahead: deque[tuple[tuple[int, int], list[Future[tuple[str, Image, Mask]]]]] = deque()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            while len(self._ahead) < self._prefetch and (planned := next(self._plan, None)) is not None:
                tag, indices = planned
                self._ahead.append((tag, [self._pool.submit(self._make, tag[0], int(index)) for index in indices]))
            if not self._ahead:
                return
            tag, futures = self._ahead.popleft()
            started = time.perf_counter()
            made = [future.result() for future in futures]
            self.waited += time.perf_counter() - started
            yield _collate(tag, made)

    def _make(self, epoch: int, index: int) -> tuple[str, Image, Mask]:
        before, index = divmod(index, len(self._samples))
        image_id = self._samples.index.image_id(index)
        image, mask = self._samples.load(index)
        if self._prepare is not None:
            image, mask = self._prepare(epoch, f"{image_id}#{before}" if before else image_id, image, mask)
        return image_id, image, mask


def augmenter(config: AugmentConfig, *, seed: int, mean: Sequence[float], ignore_index: int) -> Callable[..., tuple[Image, Mask]]:
    """The `prepare` of training: `augment` keyed by (seed, epoch, key), padding with the mean colour."""
    red, green, blue = (round(255 * value) for value in mean)

    def prepare(epoch: int, key: str, image: Image, mask: Mask) -> tuple[Image, Mask]:
        return augment(image, mask, config, key=(seed, epoch, key), fill=(red, green, blue), ignore_index=ignore_index)

    return prepare


def same_size_batches(index: SplitIndex, start: int, stop: int, batch_size: int) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Consecutive images in batches for validation; a batch ends early where the size changes."""
    batch: list[int] = []
    for place in range(start, stop):
        if batch and (len(batch) == batch_size or index.size(place) != index.size(batch[0])):
            yield (0, batch[0]), batch
            batch = []
        batch.append(place)
    if batch:
        yield (0, batch[0]), batch


def _collate(tag: tuple[int, int], made: list[tuple[str, Image, Mask]]) -> Batch:
    ids = [item[0] for item in made]
    shapes = {item[1].shape for item in made}
    if len(shapes) > 1:
        sizes = ", ".join(sorted({_size(item[1]) for item in made}))
        raise InputError(
            f"images of a batch differ in size ({sizes}); needed: one size. Set augment.crop to [height, width], or run `segtasks "
            "preprocess` with resize (stretch, letterbox) or tile"
        )
    # not np.stack: masks of one batch may be 8 and 16 bit, and the wider type wins
    return Batch(tag, ids, np.stack([item[1] for item in made]), np.stack([item[2] for item in made]))


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
