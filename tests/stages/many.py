"""A stage for tests that makes 0, 1, 40 or 2,000 rows of an image, and can be killed between the row groups of a shard."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segtasks.engines import EngineConfig, open_engine
from segtasks.shards import open_snapshot, writer
from segtasks.shards.plan import Plan, Unit
from segtasks.shards.recipe import Recipe
from segtasks.shards.writer import ok
from segtasks.stages._derive import Rows, propose_derived, read_unit
from segtasks.stages._run import Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import StageConfig
from segtasks.stages.progress import silent
from segtasks.stages.result import StageResult
from segtasks.storage import open_store

MANY = (0, 1, 40, 2000)
group_bytes = 1 << 20
mask_bytes = 8 << 10


def number_of(image_id: str) -> int:
    return int(image_id.rpartition("i")[2].partition(".")[0])


def rows_of(image_id: str) -> int:
    """How many rows an image makes, by the number in its name."""
    return MANY[number_of(image_id) % len(MANY)]


def run_many(data: Path, output: Path, workers: int = 0, kill_at: int = 0, group: bool = False) -> StageResult:
    """`kill_at`: the row group, counted over the process, after which it ends itself (`group`: everything), once for an output."""
    config = StageConfig(output=str(output), engine=EngineConfig(name="local", workers=workers))
    parent, store = open_snapshot(str(data)), open_store(str(output))
    recipe = Recipe(stage="many", version=1, rows="predictions/1", config={}, spec=parent.spec)
    stage = Stage(
        name="many",
        config=config,
        store=store,
        recipe=recipe,
        propose=lambda own: propose_derived(parent, recipe.id, own),
        make_worker=lambda plan: _Factory(config, plan, str(data), kill_at, group),
        input=parent.ref,
    )
    engine = open_engine(config.engine)
    try:
        return run(stage, engine, silent)
    finally:
        engine.close()


def main(arguments: list[str]) -> int:
    data, output, kill_at = arguments
    run_many(Path(data), Path(output), kill_at=int(kill_at), group=True)
    return 0


@dataclass(frozen=True)
class _Factory:
    config: StageConfig
    plan: Plan
    data: str
    kill_at: int
    group: bool

    def __call__(self) -> _Many:
        return _Many(self)


class _Many(ShardWorker[dict[str, Any]]):
    def __init__(self, made_by: _Factory) -> None:
        super().__init__("predictions/1", open_store(made_by.config.output), made_by.plan, made_by.config.limits)
        self._parent = open_snapshot(made_by.data)
        if made_by.kill_at:
            _kill_after(made_by.kill_at, Path(made_by.config.output).with_suffix(".killed"), group=made_by.group)

    def inputs(self, unit: Unit) -> Sequence[dict[str, Any]]:
        return Rows(read_unit(self._parent, unit, ["image_id", "split"]))

    def origin(self, one: dict[str, Any]) -> dict[str, Any]:
        return {"image_id": one["image_id"], "parent_id": one["image_id"], "split": one["split"]}

    def make_rows(self, inputs: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        for one in inputs:
            random = np.random.default_rng(int(one["image_id"].rpartition("i")[2].partition(".")[0]))
            yield [
                ok(
                    {
                        **self.origin(one),
                        "image_id": f"{one['image_id']}#{number}",
                        "mask": {"bytes": random.bytes(mask_bytes), "path": "m"},
                    }
                )
                for number in range(rows_of(one["image_id"]))
            ]


def _kill_after(count: int, marker: Path, *, group: bool) -> None:
    writer.row_group_bytes = group_bytes
    flush, flushed = writer.ShardWriter._flush, 0

    def flush_and_die(self: writer.ShardWriter) -> None:
        nonlocal flushed
        flush(self)
        flushed += 1
        if flushed == count:
            if group:
                os.killpg(os.getpgid(0), signal.SIGKILL)
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    writer.ShardWriter._flush = flush_and_die  # type: ignore[method-assign]
