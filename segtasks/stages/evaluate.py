"""Evaluate: predictions against truth, shard by shard, straight from Parquet. The counts add up, so the score is exact."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segtasks import plugins
from segtasks.codecs.mask import decode_mask
from segtasks.config import output_part
from segtasks.engines import Engine
from segtasks.errors import ConfigError, DataFault, InputError, LabelError, QualityBelowThreshold
from segtasks.refs import Ref
from segtasks.shards.plan import Plan, Unit
from segtasks.shards.recipe import Recipe
from segtasks.shards.records import ShardRecord
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.shards.writer import ok
from segtasks.spec import DatasetSpec
from segtasks.stages._derive import Rows, propose_derived, read_unit
from segtasks.stages._run import Proposal, Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import EvaluateConfig
from segtasks.stages.preprocess import require_rows
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import open_store
from segtasks.training.classes import lookup_table

VERSION = 1


def evaluate(config: EvaluateConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Score every predicted image; the merged result is in the snapshot's `summary`, one row an image in the shards.

    `QualityBelowThreshold` (exit 3) when `min_miou` is asked for and not reached; the evaluation is published all the same.
    """
    predictions = open_snapshot(config.predictions, config.storage)
    require_rows(predictions, "predictions/1")
    data = open_snapshot(config.data, config.storage)
    require_rows(data, "samples/1")
    if predictions.recipe.inputs.get("data") != data.file.recipe:
        raise InputError(
            f"{predictions.ref} was not predicted from {data.ref}: it was made from recipe {predictions.recipe.inputs.get('data')}, "
            f"this is {data.file.recipe}; needed: --data of the shard set that infer read"
        )
    if not data.spec.classes:
        raise InputError(f"{data.ref} has no classes, so there is no truth to compare with; needed: samples with masks")
    lookup_table(predictions.spec, config.class_map, data.spec)  # a class without counterpart is refused before any work
    store = open_store(config.output, config.storage)
    config = config.model_copy(update={"metric": plugins.resolved("metrics", config.metric), "data": str(data.ref), "output": store.url})
    recipe = Recipe(
        stage="evaluate",
        version=VERSION,
        rows="evaluation/1",
        config=output_part(config),
        inputs={"predictions": predictions.file.recipe, "data": data.file.recipe},
        spec=data.spec,
    )
    stage = Stage(
        name="evaluate",
        config=config,
        store=store,
        recipe=recipe,
        propose=lambda own: _propose(predictions, data, recipe, own),
        make_worker=lambda plan: _Factory(config, plan, Ref.parse(plan.config["data"])),  # the snapshot that was planned with
        input=predictions.ref,
        summarise=lambda records: _summarise(config, data.spec, records),
    )
    result = run(stage, engine, progress)
    score = result.details.get("summary", {}).get("miou")
    if config.min_miou is not None and (score is None or score < config.min_miou):
        raise QualityBelowThreshold(
            f"mIoU is {'undefined' if score is None else f'{score:.4f}'}, min_miou asks for {config.min_miou}; "
            f"the evaluation is at {result.url}"
        )
    return result


def _propose(predictions: Snapshot, data: Snapshot, recipe: Recipe, own: Snapshot | None) -> Proposal:
    """Refused before there is a plan where predictions lag behind the data: such a plan could not be finished."""
    proposal = propose_derived(predictions, recipe.id, own, whole=True)
    for unit in proposal.units:
        parent = predictions.records[unit.parent_shard].parent_shard
        if parent not in data.records:
            raise ConfigError(
                f"{data.ref} does not list {parent}, which {unit.parent_shard} of {predictions.ref} was made from: its images changed, or "
                f"a compaction moved them. Needed: run segtasks infer again, which follows, or --data with the snapshot that it read "
                f"({predictions.file.input})"
            )
    return proposal


def _metric(config: EvaluateConfig, spec: DatasetSpec) -> Any:
    module = plugins.load("metrics", config.metric.name)
    return module.build(plugins.configure("metrics", config.metric), spec)


def _summarise(config: EvaluateConfig, spec: DatasetSpec, records: list[ShardRecord]) -> dict[str, Any]:
    total = _metric(config, spec)
    for record in records:
        if record.summary and len(record.deleted_rows) < record.rows:
            total.merge_state(json.loads(record.summary))
    result: dict[str, Any] = total.result()
    return result


@dataclass(frozen=True)
class _Factory:
    config: EvaluateConfig
    plan: Plan
    data: Ref

    def __call__(self) -> _Worker:
        return _Worker(self.config, self.plan, self.data)


class _Worker(ShardWorker[dict[str, Any]]):
    """Joins a shard of predictions with the shard of samples it was made from."""

    def __init__(self, config: EvaluateConfig, plan: Plan, data: Ref) -> None:
        super().__init__("evaluation/1", open_store(config.output, config.storage), plan, config.limits)
        assert plan.input is not None
        self._predictions = open_snapshot(plan.input, config.storage)
        self._data = open_snapshot(data, config.storage)
        self._config = config
        self._table = lookup_table(self._predictions.spec, config.class_map, self._data.spec)
        self._max_pixels = self._data.spec.decode.max_pixels

    def inputs(self, unit: Unit) -> Sequence[dict[str, Any]]:
        return Rows(read_unit(self._predictions, unit, ["image_id", "parent_id", "split", "mask"]))

    def begin(self, unit: Unit) -> None:
        self._true_masks = self._truth(unit)
        self._metric = _metric(self._config, self._data.spec)

    def make_rows(self, inputs: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        return map(self._rows, inputs)

    def summary(self) -> dict[str, Any]:
        state: dict[str, Any] = self._metric.state()
        return state

    def origin(self, one: dict[str, Any]) -> dict[str, Any]:
        return {"image_id": one["image_id"], "parent_id": one["image_id"], "split": one["split"]}

    def _truth(self, unit: Unit) -> dict[str, bytes | None]:
        parent = self._predictions.records[unit.parent_shard].parent_shard
        table = self._data.read(self._data.records[parent], ["image_id", "mask"])
        return {row["image_id"]: (row["mask"] or {}).get("bytes") for row in table.to_pylist()}

    def _rows(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            encoded = self._true_masks.get(row["parent_id"])
            if encoded is None:
                raise LabelError("there is no truth mask for this image")
            prediction = self._table[decode_mask(row["mask"]["bytes"], self._max_pixels)]
            counts = self._metric.update(prediction, decode_mask(encoded, self._max_pixels))
        except DataFault as fault:
            return [self.refuse(row, fault)]
        scores = {
            "valid_pixels": counts.valid_pixels,
            "intersection": list(counts.intersection),
            "predicted": list(counts.predicted),
            "truth": list(counts.truth),
            "miou": counts.miou,
        }
        return [ok({**self.origin(row), **scores})]


def best_and_worst(evaluation: Snapshot, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows (image_id, miou) of the images with the highest and the lowest mIoU; images where it is undefined are left out."""
    rows = [row for row in evaluation.read_all(["image_id", "miou"]).to_pylist() if row["miou"] is not None]
    rows.sort(key=lambda row: (row["miou"], row["image_id"]))
    worst = rows[:count]
    best = [row for row in reversed(rows) if row not in worst][:count]
    return best, worst
