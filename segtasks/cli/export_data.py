"""`segtasks export-data URL --format NAME --output FOLDER`."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from segtasks.cli.outcome import Outcome, counted
from segtasks.cli.progress import display, duration, logs_shown
from segtasks.cli.settings import WORDS, WithSettings, load, options
from segtasks.stages.config import ExportDataConfig
from segtasks.stages.result import StageResult

_shown = 10


@click.command("export-data", cls=WithSettings, help="Write the samples or predictions of the shard set at URL in a format of other tools.")
@click.argument("url")
@options(ExportDataConfig)
def export_data(url: str, overrides: tuple[str, ...], file: str | None, as_json: bool, **given: Any) -> Outcome:
    from segtasks.engines.lazy import LazyEngine
    from segtasks.stages.export_data import export_data as run

    config = load(ExportDataConfig, file, {**given, "data": url}, overrides)
    with display() as progress, logs_shown("export-data", progress), contextlib.closing(LazyEngine(config.engine)) as engine:
        result = run(config, engine, progress)
    return Outcome(result.model_dump(mode="json"), lines(result))


def lines(result: StageResult) -> list[str]:
    if result.dry_run:
        return [f"{counted(result.details['images'], 'image')} of {counted(result.details['shards'], 'shard')} would go to {result.url}"]
    left_out: dict[str, str] = result.details["left_out"]
    found = [f"{counted(result.details['written'], 'image')} in {result.url} as {result.details['format']}, {duration(result.seconds)}"]
    if left_out:
        found.append(f"{counted(len(left_out), 'image')} left out:")
        found += [f"  {image_id}: {why}" for image_id, why in list(left_out.items())[:_shown]]
        if len(left_out) > _shown:
            found.append(f"  and {len(left_out) - _shown:,} more: .segtasks-export.json names them all")
    return found


assert isinstance(export_data, WithSettings)
export_data.model = ExportDataConfig
export_data.shown_as_options = (*WORDS, "dry_run", "engine.name", "engine.address", "engine.workers")
