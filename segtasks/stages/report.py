"""Report: one self-contained HTML page of an evaluation, from what the shard sets themselves say of where they come from."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import decode_mask
from segtasks.errors import InputError
from segtasks.metrics.confusion import Result
from segtasks.reporting.data import Epoch, Example, Fact, Quarantined, ReportData, StageCoverage
from segtasks.reporting.page import render_report
from segtasks.shards.pixels import IMAGE_COLUMNS, image_bytes
from segtasks.shards.plan import read_plan
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.stages.config import ReportConfig
from segtasks.stages.evaluate import best_and_worst
from segtasks.stages.preprocess import require_rows
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import StorageOptions, open_store
from segtasks.training.classes import lookup_table

PAGE = "report.html"
listed_quarantined = 50


def report(config: ReportConfig, progress: Progress = silent) -> StageResult:
    """Write `report.html` under `config.output`; the same evaluation gives the same page."""
    started = time.monotonic()
    evaluation = open_snapshot(config.evaluation, config.storage)
    require_rows(evaluation, "evaluation/1")
    page = render_report(collect(evaluation, config.examples, config.storage)).encode()
    store = open_store(config.output, config.storage)
    unchanged = store.exists(PAGE) and store.read(PAGE) == page
    if not unchanged:
        store.replace(PAGE, page)
    progress({"event": "published", "stage": "report", "ref": store.url_of(PAGE)})
    return StageResult(
        stage="report",
        url=store.url,
        already_done=unchanged,
        seconds=round(time.monotonic() - started, 3),
        details={"page": store.url_of(PAGE), "evaluation": str(evaluation.ref), "miou": evaluation.file.summary.get("miou")},
    )


def collect(evaluation: Snapshot, examples: int, storage: StorageOptions) -> ReportData:
    """Everything the page shows, followed back from the evaluation to predictions, data and model."""
    predictions = _input_of(evaluation, storage)
    data = _input_of(predictions, storage)
    best, worst = best_and_worst(evaluation, examples)
    # class_map of the evaluation: how the predicted classes were named when they were counted
    class_map: dict[str, str] = evaluation.recipe.config.get("class_map", {})
    pictures = _Pictures(evaluation, predictions, data, class_map, storage)
    stages = [("ingest", data), ("infer", predictions), ("evaluate", evaluation)]
    refused = [row for stage, snapshot in stages for row in _quarantined(stage, snapshot)]
    plan = read_plan(predictions.store, predictions.file.plan)
    checkpoint = str(plan.config.get("checkpoint", ""))
    history, model_facts = _training(checkpoint, storage)
    resolved = predictions.recipe.resolved
    return ReportData(
        title=f"{data.spec.name}: {resolved.get('architecture', 'model')}",
        subtitle=f"{evaluation.counts.done} images of {data.spec.name}, {data.spec.num_classes} classes",
        spec=data.spec,
        metrics=Result.model_validate(evaluation.file.summary),
        facts=(
            Fact("Data", str(data.ref), code=True),
            Fact("Source", data.file.source or str(data.file.input), code=True),
            Fact("Model", checkpoint, code=True),
            Fact("Weights", resolved.get("weights", ""), code=True),
            Fact("Precision and backend", f"{predictions.recipe.config.get('precision')}, {predictions.recipe.config.get('backend')}"),
            *model_facts,
            Fact("Predictions", str(predictions.ref), code=True),
            Fact("Evaluation", str(evaluation.ref), code=True),
            Fact("segtasks", evaluation.file.segtasks),
        ),
        stages=tuple(_coverage(stage, snapshot, refused) for stage, snapshot in stages),
        history=history,
        best=tuple(pictures.examples(best)),
        worst=tuple(pictures.examples(worst)),
        quarantined=tuple(refused[:listed_quarantined]),
        quarantined_total=len(refused),
        created=evaluation.file.created_at,
    )


def _input_of(snapshot: Snapshot, storage: StorageOptions) -> Snapshot:
    if snapshot.file.input is None:
        raise InputError(f"{snapshot.ref} does not say what it was made from; needed: an evaluation of predictions")
    return open_snapshot(snapshot.file.input, storage)


def _quarantined(stage: str, snapshot: Snapshot) -> Iterator[Quarantined]:
    for row in snapshot.quarantined():
        yield Quarantined(stage, row["image_id"], row["error_type"], row["error"])


def _coverage(stage: str, snapshot: Snapshot, refused: list[Quarantined]) -> StageCoverage:
    counts = snapshot.counts
    return StageCoverage(
        stage=stage,
        output=str(snapshot.ref),
        recipe=snapshot.file.recipe,
        rows=counts.rows,
        done=counts.done,
        quarantined=counts.quarantined,
        empty=counts.empty,
        reasons=Counter(row.error_type for row in refused if row.stage == stage),
    )


def _training(checkpoint: str, storage: StorageOptions) -> tuple[tuple[Epoch, ...], list[Fact]]:
    """The curves and provenance of a checkpoint; without them where it is not there any more (`keep_checkpoints`, or moved)."""
    from segtasks.training.loaded import find_checkpoint

    try:
        found = find_checkpoint(checkpoint, storage)
    except InputError as error:
        return (), [Fact("Training", f"not shown: {error}")]
    info = found.info()
    history = tuple(Epoch.from_json(row) for row in json.loads(found.read("history.json")))
    trained_on = str(info.training.get("data", ""))
    size = info.spec.resize
    facts = [
        Fact("Architecture", f"{info.model.name} {json.dumps(info.model.options, sort_keys=True)}"),
        Fact("Trained on", trained_on, code=True),
        Fact("Input size", str(size) if size else "as the image"),
        Fact("Training", f"{found.commit.epoch} epochs, {found.commit.step} steps, {float(info.training.get('seconds', 0)):.0f} s"),
    ]
    return history, facts


class _Pictures:
    """Finds images by id, reading each shard that is needed once."""

    def __init__(
        self, evaluation: Snapshot, predictions: Snapshot, data: Snapshot, class_map: dict[str, str], storage: StorageOptions
    ) -> None:
        self._evaluation, self._predictions, self._data, self._storage = evaluation, predictions, data, storage
        self._table = lookup_table(predictions.spec, class_map, data.spec)
        self._shard_of: dict[str, str] = {}
        for record in evaluation.shards():
            for image_id in evaluation.read(record, ["image_id"])["image_id"].to_pylist():
                self._shard_of[image_id] = record.parent_shard

    def examples(self, rows: list[dict[str, Any]]) -> Iterator[Example]:
        for row in rows:
            yield self._example(row["image_id"], row["miou"])

    def _example(self, image_id: str, miou: float | None) -> Example:
        predicted = self._predictions.records[self._shard_of[image_id]]
        prediction = _row(self._predictions, predicted.path, image_id, ["image_id", "mask"])
        sample = _row(self._data, predicted.parent_shard, image_id, [*IMAGE_COLUMNS, "mask"])
        decode = self._data.spec.decode
        return Example(
            image_id=image_id,
            miou=miou,
            image=decode_image(image_bytes(sample, self._storage), decode).pixels,
            truth=decode_mask(sample["mask"]["bytes"], decode.max_pixels),
            prediction=self._table[decode_mask(prediction["mask"]["bytes"], decode.max_pixels)],
        )


def _row(snapshot: Snapshot, path: str, image_id: str, columns: list[str]) -> dict[str, Any]:
    table = snapshot.read(snapshot.records[path], columns)
    position = table["image_id"].to_pylist().index(image_id)
    row: dict[str, Any] = table.slice(position, 1).to_pylist()[0]
    return row
