"""Infer: masks for every image of a shard set, one shard of predictions for each shard of samples, exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import encode_mask
from segtasks.config import output_part
from segtasks.engines import Engine, available_cpus, device_for
from segtasks.errors import ConfigError, DataFault
from segtasks.inference.pipeline import predict_rows
from segtasks.inference.predictor import Prediction, Predictor, steps_left
from segtasks.shards.digest import content_id
from segtasks.shards.pixels import IMAGE_COLUMNS, image_bytes
from segtasks.shards.plan import Plan, Unit
from segtasks.shards.recipe import Recipe
from segtasks.shards.snapshot import open_snapshot
from segtasks.shards.writer import ok
from segtasks.spec import DatasetSpec
from segtasks.stages._derive import Rows, propose_derived, read_unit
from segtasks.stages._run import Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import InferConfig
from segtasks.stages.preprocess import require_rows
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import open_store
from segtasks.training.checkpoint import ModelInfo
from segtasks.training.classes import mapped_classes
from segtasks.training.loaded import find_checkpoint, load_checkpoint

VERSION = 1
codec_threads = 2


def infer(config: InferConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Predict a mask for every done image of `config.data`. Weights, model and precision are in the recipe."""
    parent = open_snapshot(config.data, config.storage)
    require_rows(parent, "samples/1")
    checkpoint = find_checkpoint(config.checkpoint, config.storage)
    info = checkpoint.info()
    steps_left(info.spec, parent.spec)  # what does not fit is refused before any work
    store = open_store(config.output, config.storage)
    config = config.model_copy(
        update={"checkpoint": checkpoint.url, "precision": _precision(config), "data": str(parent.ref), "output": store.url}
    )
    spec = info.spec.model_copy(
        update={"name": parent.spec.name, "classes": mapped_classes(info.spec.classes, config.class_map), "crop": None, "resize": None}
    )
    recipe = Recipe(
        stage="infer",
        version=VERSION,
        rows="predictions/1",
        config=output_part(config),
        inputs={"data": parent.file.recipe},
        resolved=model_facts(info),
        spec=spec,
    )
    threads = config.threads or _threads_a_worker(engine)
    stage = Stage(
        name="infer",
        config=config,
        store=store,
        recipe=recipe,
        propose=lambda own: propose_derived(parent, recipe.id, own, where=config.where, limit=config.limit),
        make_worker=lambda plan: _Factory(config, plan, recipe, threads),
        input=parent.ref,
    )
    return run(stage, engine, progress)


def model_facts(info: ModelInfo) -> dict[str, str]:
    """What of a checkpoint decides its masks: the digest of the weights, and of everything around them."""
    around = {"model": info.model.model_dump(mode="json"), "mean": info.mean, "std": info.std, "spec": info.spec.model_dump(mode="json")}
    return {"weights": info.digest, "architecture": info.model.name, "model": content_id(around)}


def _precision(config: InferConfig) -> str:
    """Settled once, in the driver, and part of the recipe: bfloat16 where workers have GPUs, float32 on CPUs."""
    import torch

    if config.precision != "auto":
        return config.precision
    return "bfloat16" if config.engine.gpus_per_worker or torch.cuda.is_available() else "float32"


def _threads_a_worker(engine: Engine) -> int:
    return max(1, available_cpus() // max(1, engine.workers))


@dataclass(frozen=True)
class _Factory:
    config: InferConfig
    plan: Plan
    recipe: Recipe
    threads: int

    def __call__(self) -> _Worker:
        return _Worker(self.config, self.plan, self.recipe, self.threads)


class _Worker(ShardWorker[dict[str, Any]]):
    """Loads the model once; a shard goes through read, decode, predict, encode and write."""

    def __init__(self, config: InferConfig, plan: Plan, recipe: Recipe, threads: int) -> None:
        super().__init__("predictions/1", open_store(config.output, config.storage), plan, config.limits)
        assert plan.input is not None
        self._storage = config.storage
        self._parent = open_snapshot(plan.input, config.storage)
        self._spec = recipe.spec
        loaded = load_checkpoint(config.checkpoint, config.storage)
        if model_facts(loaded.info) != recipe.resolved:
            raise ConfigError(f"the checkpoint at {config.checkpoint} is not the one that was planned with: it changed on the way")
        self._predictor = Predictor(
            loaded,
            precision="bfloat16" if config.precision == "bfloat16" else "float32",
            batch_size=config.batch_size,
            threads=threads,
            device=device_for(0),
            class_map=config.class_map,
            data=self._parent.spec,
            crf=config.crf,
        )

    def inputs(self, unit: Unit) -> Sequence[dict[str, Any]]:
        return Rows(read_unit(self._parent, unit, [*IMAGE_COLUMNS, "split"]))

    def make_rows(self, inputs: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        return predict_rows(inputs, self._predictor, self._decode, self._encode, threads=codec_threads)

    def origin(self, one: dict[str, Any]) -> dict[str, Any]:
        return {"image_id": one["image_id"], "parent_id": one["image_id"], "split": one["split"]}

    def _decode(self, row: dict[str, Any]) -> NDArray[np.uint8]:
        return decode_image(image_bytes(row, self._storage), self._parent.spec.decode).pixels

    def _encode(self, row: dict[str, Any], outcome: Prediction | DataFault) -> list[dict[str, Any]]:
        if isinstance(outcome, DataFault):
            return [self.refuse(row, outcome)]
        return [ok({**self.origin(row), **_columns(outcome, row["image_id"], self._spec)})]


def _columns(prediction: Prediction, image_id: str, spec: DatasetSpec) -> dict[str, Any]:
    height, width = prediction.mask.shape
    return {
        "width": width,
        "height": height,
        "mask": {"bytes": encode_mask(prediction.mask, spec.palette), "path": f"{image_id}.mask.png"},
        "class_pixels": prediction.class_pixels.tolist(),
        "mean_confidence": prediction.mean_confidence,
    }
