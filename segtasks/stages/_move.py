"""The worker of a plan whose units are copies and nothing else (compaction). It needs only the output, so that a run of any stage
that finds such a plan open can finish it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segtasks.shards.plan import Plan, Unit
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import StageConfig
from segtasks.storage import open_store

COMPACT = "compact"  # `kind` of such a plan


@dataclass(frozen=True)
class MoveFactory:
    """Makes the worker in its process."""

    config: StageConfig
    rows_schema: str
    plan: Plan

    def __call__(self) -> _Worker:
        return _Worker(self.rows_schema, open_store(self.config.output, self.config.storage), self.plan, self.config.limits)


class _Worker(ShardWorker[None]):
    def inputs(self, unit: Unit) -> Sequence[None]:
        raise RuntimeError(f"unit {unit.key} of a compaction has inputs that are in no list of copies")

    def make_rows(self, inputs: Iterable[None]) -> Iterator[Sequence[Mapping[str, Any]]]:
        return iter(())

    def origin(self, one: None) -> dict[str, Any]:
        raise AssertionError("every input of a compaction has rows")
