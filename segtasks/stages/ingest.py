"""Ingest: a data set in its own layout becomes shards of samples. Every image is decoded once, here, so that a bad one is
refused with its reason before a GPU is paid for; its bytes are kept as they are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segtasks import plugins
from segtasks.codecs.image import Decoded, Header, decode_image
from segtasks.codecs.mask import encode_mask
from segtasks.config import Plugin, output_part
from segtasks.engines import Engine
from segtasks.errors import DataFault, InputError, LabelError, MissingObject
from segtasks.readers._base import Instance, RawSample, Reader, SourceItem
from segtasks.shards.digest import digest_ids
from segtasks.shards.plan import LISTS, Plan, Unit, unit_key, write_items
from segtasks.shards.recipe import Recipe, read_recipe
from segtasks.shards.schema import to_meta
from segtasks.shards.snapshot import Snapshot
from segtasks.shards.tables import read_parquet, read_table
from segtasks.shards.writer import ok
from segtasks.spec import DatasetSpec
from segtasks.stages._ahead import map_ahead
from segtasks.stages._run import Proposal, Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import IngestConfig
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import Store, open_store

VERSION = 1  # raised when the rows change for the same configuration
min_rows_for_parallelism = 16  # a small split is still cut into shards of this many rows, so that several workers have work
shards_wanted = 8
decode_threads = 2
_items_a_manifest = 100_000
_details_a_manifest = 64 << 20  # characters: a worker reads the whole manifest that its shard is in
_ITEMS = pa.schema(
    [
        ("unit", pa.string()),
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("split", pa.string()),
        ("group_id", pa.string()),
        ("labels", pa.string()),
        ("details", pa.string()),
    ]
)


def ingest(config: IngestConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Read `config.source` into the shard set at `config.output`; a second run reads only what is new or changed."""
    source = open_store(config.source, config.storage)
    store = open_store(config.output, config.storage)
    config = config.model_copy(update={"format": plugins.resolved("readers", config.format), "source": source.url, "output": store.url})
    settings = output_part(config)
    existing = read_recipe(store)
    if existing is not None and existing.config == settings:
        spec = existing.spec  # what was inferred once stays as it was, however the source grows
    else:
        spec = _open_reader(config.format, source, None).spec().model_copy(update={"decode": config.decode})
    recipe = Recipe(stage="ingest", version=VERSION, rows="samples/1", config=settings, inputs={"source": source.url}, spec=spec)
    stage = Stage(
        name="ingest",
        config=config,
        store=store,
        recipe=recipe,
        propose=lambda latest: _propose(config, store, source, recipe, latest),
        make_worker=lambda plan: _Factory(config, recipe, plan),
        source=source.url,
    )
    return run(stage, engine, progress)


def _open_reader(plugin: Plugin, source: Store, spec: DatasetSpec | None) -> Reader:
    reader: Reader = plugins.load("readers", plugin.name).build(plugins.configure("readers", plugin), source, spec)
    return reader


def _propose(config: IngestConfig, store: Store, source: Store, recipe: Recipe, latest: Snapshot | None) -> Proposal:
    """New and changed images go to new shards; the old rows of changed ones are dropped. Images that are gone stay."""
    items = list(_scan(_open_reader(config.format, source, recipe.spec), source, config.limit))
    known = _known_rows(latest)
    fresh = [item for item in items if item.image_id not in known or known[item.image_id].version != item.version]
    deletions: dict[str, list[int]] = {}
    for item in fresh:
        if (old := known.get(item.image_id)) is not None:
            deletions.setdefault(old.path, []).append(old.position)
    cut = list(_cut(fresh, config, recipe.id))
    return Proposal([unit for unit, _ in cut] if config.dry_run else _write_manifests(store, cut), deletions)


def _scan(reader: Reader, source: Store, limit: int | None) -> Iterator[SourceItem]:
    """The reader's items with unique ids; `InputError` when there are none."""
    seen: set[str] = set()
    for item in reader.scan():
        if item.image_id in seen:
            raise InputError(f"{source.url} lists {item.image_id!r} twice; needed: one entry an image")
        seen.add(item.image_id)
        yield item
        if limit is not None and len(seen) == limit:
            return
    if not seen:
        raise InputError(f"no images were found at {source.url}; check --source and --format (segtasks readers tells the layouts)")


@dataclass(frozen=True)
class _Row:
    version: str
    path: str
    position: int


def _known_rows(latest: Snapshot | None) -> dict[str, _Row]:
    """Live rows of the output by image id, refused ones included: a refused image is tried again only when it changes."""
    known: dict[str, _Row] = {}
    for record in latest.shards() if latest else []:
        with latest.store.open(record.path) as file:  # type: ignore[union-attr]
            table = read_parquet(file, columns=["image_id", "source_version"])
        gone = set(record.deleted_rows)
        for position, (image_id, version) in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
            if position not in gone:
                known[image_id] = _Row(version, record.path, position)
    return known


def _cut(items: Iterable[SourceItem], config: IngestConfig, recipe_id: str) -> Iterator[tuple[Unit, list[SourceItem]]]:
    """Cut each split, in listing order, into shards of about `shard_bytes`; a group (video, patient) is not cut across shards."""
    splits: dict[str, list[SourceItem]] = {}
    for item in items:
        splits.setdefault(item.split, []).append(item)
    for split, members in splits.items():
        most_rows = min(config.shard_rows, max(min_rows_for_parallelism, math.ceil(len(members) / shards_wanted)))
        shard: list[SourceItem] = []
        size = 0
        for group in _groups(members, most_rows):
            group_size = sum(item.size for item in group)
            if shard and (size + group_size > config.shard_bytes or len(shard) + len(group) > most_rows):
                yield _unit(split, shard, recipe_id), shard
                shard, size = [], 0
            shard += group
            size += group_size
        if shard:
            yield _unit(split, shard, recipe_id), shard


def _groups(items: list[SourceItem], most_rows: int) -> Iterator[list[SourceItem]]:
    """Runs of items that stay together. A group larger than a shard is cut all the same: there is no other way to hold it."""
    by_group: dict[str, list[SourceItem]] = {}
    for number, item in enumerate(items):
        by_group.setdefault(item.group_id or f"\0{number}", []).append(item)
    for group in by_group.values():
        for start in range(0, len(group), most_rows):
            yield group[start : start + most_rows]


def _unit(split: str, items: list[SourceItem], recipe_id: str) -> Unit:
    content = [[item.image_id, item.path, item.version] for item in items]
    return Unit(
        key=unit_key(recipe_id, content),
        split=split,
        inputs=len(items),
        bytes=sum(item.size for item in items),
        ids=digest_ids(item.image_id for item in items),
    )


def _write_manifests(store: Store, cut: Iterable[tuple[Unit, list[SourceItem]]]) -> list[Unit]:
    """Write the items as manifest lists and tell each unit where its own are."""
    units: list[Unit] = []
    rows: list[dict[str, Any]] = []
    waiting: list[Unit] = []
    details = 0

    def flush() -> None:
        name = write_items(store, pa.Table.from_pylist(rows, schema=_ITEMS))
        units.extend(replace(unit, items=name) for unit in waiting)
        rows.clear()
        waiting.clear()

    for unit, items in cut:
        waiting.append(replace(unit, first_item=len(rows)))
        for item in items:
            labels = json.dumps(dict(item.labels), sort_keys=True)
            rows.append({**asdict(item), "labels": labels, "unit": unit.key})
            details += len(item.details)
        if len(rows) >= _items_a_manifest or details >= _details_a_manifest:
            flush()
            details = 0
    if rows:
        flush()
    return units


@dataclass(frozen=True)
class _Factory:
    """Makes the worker in its process."""

    config: IngestConfig
    recipe: Recipe
    plan: Plan

    def __call__(self) -> _Worker:
        return _Worker(self.config, self.recipe, self.plan)


class _Worker(ShardWorker[SourceItem]):
    """Reads, checks and writes one shard."""

    def __init__(self, config: IngestConfig, recipe: Recipe, plan: Plan) -> None:
        super().__init__("samples/1", open_store(config.output, config.storage), plan, config.limits)
        self._source = open_store(config.source, config.storage)
        self._reader = _open_reader(config.format, self._source, recipe.spec)
        self._spec = recipe.spec
        self._manifest: tuple[str, pa.Table] = ("", None)

    def inputs(self, unit: Unit) -> list[SourceItem]:
        if self._manifest[0] != unit.items:
            self._manifest = (unit.items, read_table(self._store, LISTS, unit.items))
        rows = self._manifest[1].slice(unit.first_item, unit.inputs).drop_columns(["unit"]).to_pylist()
        return [SourceItem(**{**row, "labels": json.loads(row["labels"])}) for row in rows]

    def make_rows(self, inputs: Iterable[SourceItem]) -> Iterator[list[dict[str, Any]]]:
        return map_ahead(self._rows, inputs, threads=decode_threads, ahead=2 * decode_threads)

    def origin(self, one: SourceItem) -> dict[str, Any]:
        return {
            "image_id": one.image_id,
            "group_id": one.group_id,
            "split": one.split,
            "source_uri": self._source.url_of(one.path),
            "source_version": one.version,
        }

    def _rows(self, item: SourceItem) -> list[dict[str, Any]]:
        try:
            columns = self._read(item)
            return [] if columns is None else [ok({**self.origin(item), **columns})]
        except DataFault as fault:
            return [self.refuse(item, fault)]

    def _read(self, item: SourceItem) -> dict[str, Any] | None:
        """The columns of the item's row; None where it makes none."""
        try:
            raw = self._reader.read(item)
        except FileNotFoundError as error:
            raise MissingObject(f"listed, but not there when read: {error}") from error
        if raw.empty:
            return None
        found: Decoded | Header = raw.referenced or decode_image(raw.image, self._spec.decode)
        facts = found.facts if isinstance(found, Decoded) else {}
        by_value = {"bytes": raw.image, "path": item.image_id}
        return {
            "image": {"bytes": None, "path": self._source.url_of(item.path)} if raw.referenced else by_value,
            "media_type": found.media_type,
            "shape": [found.height, found.width, 3],
            "axes": "YXC",
            "spacing": list(raw.spacing) or None,
            "width": found.width,
            "height": found.height,
            "mask": self._mask(raw, found.height, found.width, item),
            "instances": None if raw.instances is None else [_instance(one, found.height, found.width) for one in raw.instances],
            "meta": to_meta({**facts, **raw.meta}),
        }

    def _mask(self, raw: RawSample, height: int, width: int, item: SourceItem) -> dict[str, Any] | None:
        if raw.mask is None:
            return None
        if raw.mask.shape != (height, width):
            found = "x".join(str(side) for side in raw.mask.shape)
            raise LabelError(f"the mask is {found}, the image (turned upright) {height}x{width} (height x width)")
        check_values(raw.mask, self._spec)
        return {"bytes": encode_mask(raw.mask, self._spec.palette), "path": f"{item.image_id}.mask.png"}


def check_values(mask: NDArray[Any], spec: DatasetSpec) -> None:
    """Raise `LabelError` for values that are neither a class index nor the ignore value."""
    if not spec.classes:
        return
    values = np.unique(mask)
    strange = [int(value) for value in values if value >= spec.num_classes and value != spec.ignore_index]
    if strange:
        raise LabelError(f"the mask holds {strange[:8]}; classes are 0..{spec.num_classes - 1} and {spec.ignore_index} means ignore")


def _instance(instance: Instance, height: int, width: int) -> dict[str, Any]:
    return {**asdict(instance), "bbox": list(instance.bbox), "size": [height, width]}
