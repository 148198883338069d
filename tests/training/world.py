"""A small data set as real shards: coloured shapes whose class is their colour, so that a small net learns it in seconds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from segtasks.engines import Rank
from segtasks.errors import DecodeError
from segtasks.shards import Snapshot
from segtasks.shards.digest import digest_ids
from segtasks.shards.plan import Unit
from segtasks.shards.recipe import Recipe, claim_recipe
from segtasks.shards.snapshot import publish
from segtasks.shards.writer import ShardWriter, commit, ok, quarantined
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import Store
from segtasks.training.checkpoint import Checkpoints
from segtasks.training.config import TrainingConfig
from segtasks.training.data import Samples
from segtasks.training.index import index_split
from segtasks.training.loaded import LoadedModel
from segtasks.training.loop import TrainingData, fit
from segtasks.training.pretrained import Pretrained

CLASSES = (
    ClassSpec(name="ground", color=(90, 90, 90)),
    ClassSpec(name="disc", color=(200, 40, 40)),
    ClassSpec(name="box", color=(40, 60, 200)),
)
SPEC = DatasetSpec(name="shapes", classes=CLASSES)


def scene(seed: int, height: int = 24, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask; the border column is ignored."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    y, x = rng.uniform(4, height - 4), rng.uniform(4, width - 4)
    mask[(rows - y) ** 2 + (columns - x) ** 2 < 30] = 1
    y, x = rng.integers(0, height - 6), rng.integers(0, width - 8)
    mask[y : y + 6, x : x + 8] = 2
    image = np.array([item.color for item in CLASSES], np.float64)[mask] + rng.normal(0, 20, (height, width, 3))
    mask[:, -1] = 255
    return np.clip(image, 0, 255).astype(np.uint8), mask


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def publish_rows(store: Store, shards: list[tuple[str, list[dict]]], spec: DatasetSpec = SPEC) -> Snapshot:
    """One shard for each (split, rows)."""
    recipe = Recipe(stage="ingest", version=1, rows="samples/1", config={}, spec=spec)
    claim_recipe(store, recipe)
    records = []
    for number, (split, rows) in enumerate(shards):
        ids = [row["image_id"] for row in rows]
        unit = Unit(key=f"{number:04d}", split=split, inputs=len(ids), bytes=0, ids=digest_ids(ids))
        writer = ShardWriter("samples/1", recipe.id, 1, unit)
        writer.extend(rows)
        records.append(commit(store, *writer.finish()))
    return publish(store, recipe=recipe, plan=1, input=None, source=None, records=records)


def row(image_id: str, split: str, image: np.ndarray, mask: np.ndarray | None, **extra: object) -> dict:
    return ok(
        {
            "image_id": image_id,
            "group_id": "",
            "split": split,
            "image": {"bytes": png(image), "path": None},
            "media_type": "image/png",
            "height": image.shape[0],
            "width": image.shape[1],
            "mask": None if mask is None else {"bytes": png(mask), "path": None},
            **extra,
        }
    )


def refused(image_id: str, split: str) -> dict:
    return quarantined({"image_id": image_id, "split": split}, DecodeError("not an image"))


def shapes(store: Store, train: int = 12, val: int = 4, shard_rows: int = 5, size: tuple[int, int] = (24, 32)) -> Snapshot:
    """`train` and `val` scenes in shards of `shard_rows`, with one quarantined row in each shard of train."""
    shards = []
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for start in range(0, count, shard_rows):
            numbers = range(start, min(count, start + shard_rows))
            rows = [row(f"{split}/{number:03d}.png", split, *scene(first + number, *size)) for number in numbers]
            if split == "train":
                rows.insert(1, refused(f"train/bad-{start}.png", split))
            shards.append((split, rows))
    return publish_rows(store, shards)


TINY = {"name": "unet", "options": {"width": 4, "depth": 2}}


def config(**settings: object) -> TrainingConfig:
    return TrainingConfig(**{"model": TINY, "epochs": 4, "batch_size": 4, "eval_every": 2, "lr": 1e-2, "loader_threads": 1, **settings})


def samples(
    snapshot: Snapshot, split: str = "train", spec: DatasetSpec | None = None, class_map: dict | None = None, **settings
) -> Samples:
    chosen = {key: settings.pop(key) for key in ("where", "limit") if key in settings}
    index = index_split(snapshot, split, **chosen)
    return Samples(snapshot, index, spec or snapshot.spec, class_map or {}, **{"cache_bytes": 1 << 24, "held_bytes": 1 << 24, **settings})


def train(
    snapshot: Snapshot,
    store: Store,
    *,
    rank: Rank | None = None,
    initial: LoadedModel | None = None,
    pretrained: Pretrained | None = None,
    report=None,
    **settings,
) -> dict:
    """`fit` on the snapshot with small settings; checkpoints go to `store`."""
    settings = config(**settings)
    data = TrainingData(samples(snapshot), samples(snapshot, "val") if settings.val_split else None, {"data": str(snapshot.ref)})
    rank = rank or Rank(0, 1, report or (lambda event: None))
    return fit(settings, snapshot.spec, data, rank, Checkpoints(store, settings.keep_checkpoints), initial, pretrained)
