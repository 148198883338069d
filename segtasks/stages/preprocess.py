"""Preprocess: bring images, masks and objects to one size, once, so that training does not decode and shrink large images every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from segtasks.config import output_part
from segtasks.engines import Engine
from segtasks.errors import ConfigError, DataFault, InputError, ShapeError
from segtasks.shards.pixels import image_bytes
from segtasks.shards.plan import Plan, Unit
from segtasks.shards.recipe import Recipe
from segtasks.shards.schema import SAMPLE_ROWS
from segtasks.shards.select import Chosen
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.shards.tables import read_parquet
from segtasks.shards.writer import ok
from segtasks.spec import Crop
from segtasks.stages._ahead import map_ahead
from segtasks.stages._derive import Rows, only, propose_derived, read_unit
from segtasks.stages._prepare import Preparer, most_image_bytes, plan_image
from segtasks.stages._run import Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import PreprocessConfig
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import open_store

VERSION = 2  # raised when the rows change for the same configuration
threads = 2
most_shard_bytes = most_image_bytes  # of pixels that are encoded anew: with truth and untouched rows an object of 256 MiB has to hold them


def preprocess(config: PreprocessConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Crop, resize and tile every done image of `config.data` with its mask and its objects."""
    parent = open_snapshot(config.data, config.storage)
    require_rows(parent, "samples/1")
    store = open_store(config.output, config.storage)
    spec = parent.spec.model_copy(update={"crop": _crop(config, parent), "resize": config.resize or parent.spec.resize})
    rows = "tiles/1" if config.tile else "samples/1"
    recipe = Recipe(
        stage="preprocess", version=VERSION, rows=rows, config=output_part(config), inputs={"data": parent.file.recipe}, spec=spec
    )
    stage = Stage(
        name="preprocess",
        config=config,
        store=store,
        recipe=recipe,
        propose=lambda own: propose_derived(
            parent, recipe.id, own, where=config.where, limit=config.limit, cut=lambda chosen: _cut(parent, chosen, config)
        ),
        make_worker=lambda plan: _Factory(config, plan, rows),
        input=parent.ref,
    )
    return run(stage, engine, progress)


def require_rows(snapshot: Snapshot, schema: str) -> None:
    """`InputError` where a shard set holds another kind of rows than the stage reads. Tiles are samples, too."""
    if snapshot.file.rows not in (SAMPLE_ROWS if schema == "samples/1" else (schema,)):
        raise InputError(f"{snapshot.ref} holds {snapshot.file.rows} (made by {snapshot.recipe.stage}); needed: {schema}")


def _crop(config: PreprocessConfig, parent: Snapshot) -> Crop | None:
    """The region of the source's images, which is what a model has to be shown of them.

    `ConfigError` for what a model could not do to whole images afterwards: a crop of resized images, or either of tiles.
    """
    if parent.file.rows == "tiles/1" and (config.crop or config.resize):
        raise ConfigError(f"{parent.ref} holds tiles; needed: the data as ingested, in one preprocess that crops or resizes, then tiles")
    if config.crop and parent.spec.resize:
        raise ConfigError(f"{parent.ref} is resized already; needed: a crop of the data as ingested, in one preprocess with its resize")
    before = parent.spec.crop
    if config.crop is None or before is None:
        return config.crop or before
    return config.crop.model_copy(update={"top": before.top + config.crop.top, "left": before.left + config.crop.left})


def _cut(parent: Snapshot, chosen: Chosen, config: PreprocessConfig) -> Iterator[Chosen]:
    """One unit a parent shard, or several where its tiles, or PNGs of what were JPEGs, would not fit into a shard."""
    if not (config.crop or config.resize or config.tile):
        yield chosen
        return
    with parent.store.open(chosen.record.path) as file:
        sizes = read_parquet(file, columns=["height", "width"]).take(pa.array(chosen.positions, pa.int64()))
    known: dict[tuple[int, int], int] = {}
    part: list[str] = []
    total = 0
    for image_id, height, width in zip(chosen.ids, sizes["height"].to_pylist(), sizes["width"].to_pylist(), strict=True):
        more = known.get((height, width))
        if more is None:
            more = known[height, width] = _bytes(height, width, config)
        if part and total + more > most_shard_bytes:
            yield only(chosen, set(part))
            part, total = [], 0
        part.append(image_id)
        total += more
    yield chosen if len(part) == len(chosen.ids) else only(chosen, set(part))


def _bytes(height: int, width: int, config: PreprocessConfig) -> int:
    """What is encoded anew of an image takes no more than its pixels do."""
    try:
        return 3 * plan_image(height, width, config).pixels
    except ShapeError:  # it will be refused
        return 0


@dataclass(frozen=True)
class _Factory:
    config: PreprocessConfig
    plan: Plan
    rows: str

    def __call__(self) -> _Worker:
        return _Worker(self.config, self.plan, self.rows)


class _Worker(ShardWorker[dict[str, Any]]):
    def __init__(self, config: PreprocessConfig, plan: Plan, rows: str) -> None:
        super().__init__(rows, open_store(config.output, config.storage), plan, config.limits)
        assert plan.input is not None
        self._parent = open_snapshot(plan.input, config.storage)
        self._storage = config.storage
        self._preparer = Preparer(config, self._parent.spec)
        self._tiles = rows == "tiles/1"

    def inputs(self, unit: Unit) -> Sequence[dict[str, Any]]:
        return Rows(read_unit(self._parent, unit, _COLUMNS))

    def make_rows(self, inputs: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        return map_ahead(self._rows, inputs, threads=threads, ahead=2 * threads)

    def origin(self, one: dict[str, Any]) -> dict[str, Any]:
        parent = {"parent_id": one["image_id"]} if self._tiles else {}
        return {**{name: one[name] for name in _KEPT}, **parent}

    def _rows(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            data = image_bytes(row, self._storage)  # rows by reference become rows by value
            return [ok(made) for made in self._preparer.rows(row, data)]
        except DataFault as fault:
            return [self.refuse(row, fault)]


_KEPT = ["image_id", "group_id", "split", "source_uri", "source_version"]
_COLUMNS = [*_KEPT, "image", "media_type", "shape", "axes", "spacing", "width", "height", "mask", "class_pixels", "instances", "meta"]
