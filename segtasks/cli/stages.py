"""One command a stage. The configuration models make the options; the stage does the work."""

from __future__ import annotations

import contextlib
from typing import Any

import click
from pydantic import BaseModel

from segtasks.cli.outcome import Outcome, counted, table
from segtasks.cli.progress import display, duration, logs_shown
from segtasks.cli.scores import score_lines
from segtasks.cli.settings import FLAGS, WORDS, WithSettings, load, options
from segtasks.config import Config
from segtasks.stages.config import StageConfig
from segtasks.stages.pipeline import STAGES, run_stage
from segtasks.stages.result import StageResult


def command(name: str) -> click.Command:
    model = STAGES[name]

    @click.command(name, cls=WithSettings, help=_paragraph(model))
    @options(model)
    def verb(overrides: tuple[str, ...], file: str | None, as_json: bool, **given: Any) -> Outcome:
        config = load(model, file, given, overrides)
        result = run(name, config)
        return Outcome(result.model_dump(mode="json"), result_lines(result))

    assert isinstance(verb, WithSettings)
    verb.model = model
    verb.shown_as_options = (*WORDS, *FLAGS, "engine.name", "engine.address", "engine.workers")
    return verb


def run(name: str, config: Config) -> StageResult:
    """Run the stage on the engine that the configuration names, and show its progress."""
    from segtasks.engines.lazy import LazyEngine

    with display() as progress, logs_shown(name, progress):
        if not isinstance(config, StageConfig):
            return run_stage(name, config, None, progress)
        with contextlib.closing(LazyEngine(config.engine)) as engine:
            return run_stage(name, config, engine, progress)


def _paragraph(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip()


def result_line(result: StageResult) -> str:
    """`infer       predictions@1: 120 images, 2 quarantined, 3 shards (3 made now), 4.1 s`."""
    where = result.url if result.snapshot is None else f"{result.url}@{result.snapshot}"
    counts = result.counts
    facts = []
    if "rows" in counts:
        facts.append(counted(counts["rows"], "image"))
    if counts.get("quarantined"):
        facts.append(f"{counts['quarantined']:,} quarantined")
    if "shards" in counts:
        facts.append(counted(counts["shards"], "shard"))
    if result.dry_run:
        facts.append("dry run, nothing done")
    elif result.already_done:
        facts.append("already done")
    facts.append(duration(result.seconds) if result.seconds >= 10 else f"{result.seconds:.1f} s")
    return f"{result.stage:<10}  {where}: {', '.join(facts)}"


def result_lines(result: StageResult) -> list[str]:
    """The result for people: one line, then what the stage adds."""
    lines = [result_line(result)]
    shown = {key: value for key, value in result.details.items() if isinstance(value, (str, int, float)) and key not in _NOT_SHOWN}
    lines += [f"  {row}" for row in table(shown.items())]
    scores = result.details.get("summary") or result.details.get("val")
    return [*lines, "", *score_lines(scores)] if scores else lines


_NOT_SHOWN = ("seconds", "final", "already_done")


ingest = command("ingest")
preprocess = command("preprocess")
train = command("train")
infer = command("infer")
evaluate = command("evaluate")
report = command("report")
