"""Preprocess: bring images and masks to one size, once, so that training does not decode and shrink large images every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segtasks.codecs.image import decode_image, encode_jpeg, encode_png
from segtasks.codecs.mask import decode_mask, encode_mask
from segtasks.config import output_part
from segtasks.engines import Engine
from segtasks.errors import DataFault, InputError
from segtasks.shards.pixels import image_bytes
from segtasks.shards.plan import Plan, Unit
from segtasks.shards.recipe import Recipe
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.shards.writer import ok
from segtasks.spec import DatasetSpec, Resize
from segtasks.stages._ahead import map_ahead
from segtasks.stages._derive import Rows, propose_derived, read_unit
from segtasks.stages._run import Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import PreprocessConfig
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import open_store
from segtasks.transforms.resize import resize_image, resize_mask

VERSION = 1
threads = 2


def preprocess(config: PreprocessConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Resize every done image of `config.data`; instances are dropped, since only dense training reads resized images."""
    parent = open_snapshot(config.data, config.storage)
    require_rows(parent, "samples/1")
    store = open_store(config.output, config.storage)
    spec = parent.spec.model_copy(update={"resize": config.resize or parent.spec.resize})
    recipe = Recipe(
        stage="preprocess",
        version=VERSION,
        rows="samples/1",
        config=output_part(config),
        inputs={"data": parent.file.recipe},
        spec=spec,
    )
    stage = Stage(
        name="preprocess",
        config=config,
        store=store,
        recipe=recipe,
        propose=lambda own: propose_derived(parent, recipe.id, own, where=config.where, limit=config.limit),
        make_worker=lambda plan: _Factory(config, plan, spec),
        input=parent.ref,
    )
    return run(stage, engine, progress)


def require_rows(snapshot: Snapshot, schema: str) -> None:
    """`InputError` where a shard set holds another kind of rows than the stage reads."""
    if snapshot.file.rows != schema:
        raise InputError(f"{snapshot.ref} holds {snapshot.file.rows} (made by {snapshot.recipe.stage}); needed: {schema}")


@dataclass(frozen=True)
class _Factory:
    config: PreprocessConfig
    plan: Plan
    spec: DatasetSpec

    def __call__(self) -> _Worker:
        return _Worker(self.config, self.plan, self.spec)


class _Worker(ShardWorker[dict[str, Any]]):
    def __init__(self, config: PreprocessConfig, plan: Plan, spec: DatasetSpec) -> None:
        super().__init__("samples/1", open_store(config.output, config.storage), plan, config.limits)
        assert plan.input is not None
        self._parent = open_snapshot(plan.input, config.storage)
        self._config, self._spec = config, spec

    def inputs(self, unit: Unit) -> Sequence[dict[str, Any]]:
        return Rows(read_unit(self._parent, unit, _COLUMNS))

    def make_rows(self, inputs: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        return map_ahead(self._rows, inputs, threads=threads, ahead=2 * threads)

    def origin(self, one: dict[str, Any]) -> dict[str, Any]:
        return {name: one[name] for name in _KEPT}

    def _rows(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            data = image_bytes(row, self._config.storage)  # rows by reference become rows by value
            if self._config.resize is None:
                return [ok({**row, "image": {"bytes": data, "path": row["image_id"]}})]
            return [ok({**row, **self._resized(row, data, self._config.resize)})]
        except DataFault as fault:
            return [self.refuse(row, fault)]

    def _resized(self, row: dict[str, Any], data: bytes, size: Resize) -> dict[str, Any]:
        pixels = resize_image(decode_image(data, self._parent.spec.decode).pixels, size.height, size.width)
        lossless = self._config.encoding == "png"
        resized: dict[str, Any] = {
            "image": {"bytes": encode_png(pixels) if lossless else encode_jpeg(pixels), "path": row["image_id"]},
            "media_type": "image/png" if lossless else "image/jpeg",
            "shape": [size.height, size.width, 3],
            "height": size.height,
            "width": size.width,
            "instances": None,
        }
        if row["mask"] is not None and row["mask"]["bytes"] is not None:
            mask = decode_mask(row["mask"]["bytes"], self._spec.decode.max_pixels)
            mask = resize_mask(mask, size.height, size.width)
            resized["mask"] = {"bytes": encode_mask(mask, self._spec.palette), "path": row["mask"]["path"]}
        return resized


_KEPT = ["image_id", "group_id", "split", "source_uri", "source_version"]
_COLUMNS = [*_KEPT, "image", "media_type", "shape", "axes", "spacing", "width", "height", "mask", "instances", "meta"]
