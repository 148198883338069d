"""Ingest: a data set in its own layout becomes shards of samples. Every image is decoded once, here, so that a bad one is
refused with its reason before a GPU is paid for; its bytes are kept as they are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from segtasks import plugins
from segtasks.codecs.image import Checked, Header, check_image
from segtasks.codecs.mask import encode_mask
from segtasks.config import Plugin, output_part
from segtasks.engines import Engine
from segtasks.errors import DataFault, LabelError, MissingObject
from segtasks.readers._base import Instance, RawSample, Reader, SourceItem
from segtasks.readers._labels import strange_values
from segtasks.shards.plan import LISTS, Plan, Unit
from segtasks.shards.recipe import Recipe, read_recipe
from segtasks.shards.schema import IMAGE_AXES, to_meta
from segtasks.shards.tables import read_table
from segtasks.shards.writer import ok
from segtasks.spec import DatasetSpec
from segtasks.stages._ahead import map_ahead
from segtasks.stages._delta import propose_delta
from segtasks.stages._run import Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages._volumes import volume_columns
from segtasks.stages.config import IngestConfig
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import Store, open_store
from segtasks.transforms.histogram import value_counts

VERSION = 2  # raised when the rows change for the same configuration
local_threads = 1  # a worker; the thread that writes is another one, and the workers share the cores
remote_threads = 8  # most of them wait for the store,
decoding_at_once = 2  # and of the pixels of a large image no more are in memory for it


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
        propose=lambda latest: propose_delta(_open_reader(config.format, source, recipe.spec).scan(), config, store, recipe, latest),
        make_worker=lambda plan: _Factory(config, recipe, plan),
        source=source.url,
        asked_for=lambda plan: not config.retry_quarantined or bool(plan.config.get("retry_quarantined")),
    )
    return run(stage, engine, progress)


def _open_reader(plugin: Plugin, source: Store, spec: DatasetSpec | None) -> Reader:
    reader: Reader = plugins.load("readers", plugin.name).build(plugins.configure("readers", plugin), source, spec)
    return reader


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
        self._decoding = threading.BoundedSemaphore(decoding_at_once)
        self._threads = local_threads if self._source.is_local else remote_threads
        self._reader = _open_reader(config.format, self._source, recipe.spec)
        self._spec = recipe.spec
        self._manifest: tuple[str, pa.Table] = ("", None)

    def inputs(self, unit: Unit) -> list[SourceItem]:
        if self._manifest[0] != unit.items:
            self._manifest = (unit.items, read_table(self._store, LISTS, unit.items))
        rows = self._manifest[1].slice(unit.first_item, unit.inputs).drop_columns(["unit"]).to_pylist()
        return [SourceItem(**{**row, "labels": json.loads(row["labels"])}) for row in rows]

    def make_rows(self, inputs: Iterable[SourceItem]) -> Iterator[list[dict[str, Any]]]:
        return map_ahead(self._rows, inputs, threads=self._threads, ahead=2 * self._threads)

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
        if raw.axes != IMAGE_AXES:
            return volume_columns(raw, item.image_id, self._spec)
        with self._decoding:
            found: Checked | Header = raw.referenced or check_image(raw.image, self._spec.decode)
        facts = found.facts if isinstance(found, Checked) else {}
        mask, counts = self._mask(raw, found.height, found.width, item)
        by_value = {"bytes": raw.image, "path": item.image_id}
        return {
            "image": {"bytes": None, "path": self._source.url_of(item.path)} if raw.referenced else by_value,
            "media_type": found.media_type,
            "shape": [found.height, found.width, 3],
            "axes": IMAGE_AXES,
            "spacing": list(raw.spacing) or None,
            "width": found.width,
            "height": found.height,
            "mask": mask,
            "class_pixels": counts,
            "instances": None if raw.instances is None else [_instance(one, found.height, found.width) for one in raw.instances],
            "meta": to_meta({**facts, **raw.meta}),
        }

    def _mask(self, raw: RawSample, height: int, width: int, item: SourceItem) -> tuple[dict[str, Any] | None, list[int] | None]:
        """The mask's column and its pixels of each class."""
        if raw.mask is None:
            return None, None
        if raw.mask.shape != (height, width):
            found = "x".join(str(side) for side in raw.mask.shape)
            raise LabelError(f"the mask is {found}, the image (turned upright) {height}x{width} (height x width)")
        counts = value_counts(raw.mask, self._spec.num_classes)
        strange = strange_values(counts, self._spec) if self._spec.classes else []
        if strange:
            allowed = f"classes are 0..{self._spec.num_classes - 1} and {self._spec.ignore_index} means ignore"
            raise LabelError(f"the mask holds {strange[:8]}; {allowed}")
        column = {"bytes": encode_mask(raw.mask, self._spec.palette), "path": f"{item.image_id}.mask.png"}
        return column, counts[: self._spec.num_classes].tolist()


def _instance(instance: Instance, height: int, width: int) -> dict[str, Any]:
    return {**asdict(instance), "bbox": list(instance.bbox), "size": [height, width]}
