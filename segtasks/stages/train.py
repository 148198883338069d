"""Train: a model from a shard set, on a group of ranks. The output is a recipe and checkpoints; the final one is the result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segtasks import plugins
from segtasks.config import output_part
from segtasks.engines import JSON, Engine, Rank
from segtasks.refs import Ref
from segtasks.shards.recipe import Recipe, claim_recipe
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.spec import DatasetSpec
from segtasks.stages.config import TrainConfig
from segtasks.stages.preprocess import require_rows
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import Store, open_store

if TYPE_CHECKING:
    from segtasks.training.pretrained import Pretrained

VERSION = 1
FOLDER = "checkpoints"


def train(config: TrainConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Train on a pinned snapshot of `config.data`, from the newest checkpoint in the output if there is one.

    The snapshot is part of the recipe: a model of newer data is another model, and has its own output.
    """
    from segtasks.training.checkpoint import Checkpoints
    from segtasks.training.classes import model_spec
    from segtasks.training.loaded import find_checkpoint
    from segtasks.training.pretrained import plan_pretrained

    started = time.monotonic()
    data = open_snapshot(config.data, config.storage)
    require_rows(data, "samples/1")
    store = open_store(config.output, config.storage)
    config = config.model_copy(
        update={
            "model": plugins.resolved("models", config.model),
            "loss": plugins.resolved("losses", config.loss),
            "data": str(data.ref),
            "output": store.url,
        }
    )
    initial = find_checkpoint(config.init_from, config.storage).info() if config.init_from else None
    spec = model_spec(data.spec, config.class_map, initial.spec if initial else None)
    pretrained = plan_pretrained(config.model, spec.num_classes, config.weights, config.storage) if config.weights else None
    recipe = Recipe(
        stage="train",
        version=VERSION,
        rows="checkpoint/1",
        config=output_part(config),
        inputs={"data": data.file.recipe, "ids": data.file.ids, "lists": ",".join(data.file.lists)},
        resolved={"init_from": initial.digest} if initial else {"weights": pretrained.digest} if pretrained else {},
        spec=spec,
    )
    checkpoints = Checkpoints(store.child(FOLDER), keep=config.keep_checkpoints)
    world = training_ranks(config, engine)
    if config.dry_run:
        return _dry_run(config, store, recipe, data, checkpoints.final() is not None, world)
    store.probe()
    claim_recipe(store, recipe)
    finished = checkpoints.final() is not None
    progress({"event": "plan", "stage": "train", "epochs": config.epochs, "ranks": world, "data": str(data.ref), "done": finished})
    job = _Job(config, data.ref, spec, recipe.id, pretrained)
    if finished:
        result = job(Rank(rank=0, world=1, report=progress))
    else:
        result = engine.train(job, world, progress)
    progress({"event": "published", "stage": "train", "ref": result["checkpoint"]})
    return StageResult(
        stage="train",
        url=store.url,
        already_done=finished,
        seconds=round(time.monotonic() - started, 3),
        details={"recipe": recipe.id, "data": str(data.ref), "ranks": world, **result},
    )


def training_ranks(config: TrainConfig, engine: Engine) -> int:
    """One rank a worker, and never more than images in a batch."""
    return max(1, min(engine.workers, config.batch_size))


def _dry_run(config: TrainConfig, store: Store, recipe: Recipe, data: Snapshot, finished: bool, world: int) -> StageResult:
    from segtasks.shards.recipe import read_recipe
    from segtasks.training.index import index_split

    if read_recipe(store) is not None:
        claim_recipe(store, recipe)
    images = len(index_split(data, config.train_split, where=config.where, limit=config.limit))
    details = {"recipe": recipe.id, "data": str(data.ref), "images": images, "epochs": config.epochs, "ranks": world}
    return StageResult(stage="train", url=store.url, dry_run=True, already_done=finished, details=details)


@dataclass(frozen=True)
class _Job:
    """What each rank runs; goes to it by pickle."""

    config: TrainConfig
    data: Ref
    spec: DatasetSpec
    recipe: str
    pretrained: Pretrained | None

    def __call__(self, rank: Rank) -> JSON:
        from segtasks.training.checkpoint import Checkpoints
        from segtasks.training.data import Samples
        from segtasks.training.index import index_split
        from segtasks.training.loaded import load_checkpoint
        from segtasks.training.loop import TrainingData, fit

        config = self.config
        snapshot = open_snapshot(self.data, config.storage)

        def samples(split: str, limit: int | None) -> Samples:
            index = index_split(snapshot, split, where=config.where, limit=limit)
            held = 2 * config.shuffle_bytes
            return Samples(snapshot, index, self.spec, config.class_map, cache_bytes=config.cache_bytes, held_bytes=held)

        has_val = config.val_split is not None and any(record.split == config.val_split for record in snapshot.shards())
        data = TrainingData(
            train=samples(config.train_split, config.limit),
            val=samples(config.val_split, None) if has_val and config.val_split else None,
            provenance={"data": str(self.data), "data_recipe": snapshot.file.recipe, "ids": snapshot.file.ids, "recipe": self.recipe},
        )
        store = open_store(config.output, config.storage)
        initial = load_checkpoint(config.init_from, config.storage) if config.init_from else None
        checkpoints = Checkpoints(store.child(FOLDER), keep=config.keep_checkpoints)
        return fit(config, self.spec, data, rank, checkpoints, initial, self.pretrained)
