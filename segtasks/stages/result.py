"""What a stage gives back: a reference and counts, as JSON; never data."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from segtasks.config import Config


class StageResult(Config):
    """The outcome of one run of one stage."""

    stage: str
    url: str = Field(description="root of the output")
    snapshot: int | None = Field(default=None, description="snapshot that holds the result; none for train, report and dry runs")
    already_done: bool = Field(default=False, description="nothing had to be computed")
    dry_run: bool = False
    counts: dict[str, int] = Field(default_factory=dict, description="rows, done, quarantined, empty, shards, bytes of the snapshot")
    computed_shards: int = Field(default=0, description="shards that this run made")
    seconds: float = 0.0
    details: dict[str, Any] = Field(default_factory=dict, description="what the stage adds: metrics, classes, a path")
