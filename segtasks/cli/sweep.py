"""`sweep`: remove what killed runs left behind; without `--delete` it only says what it would remove."""

from __future__ import annotations

import click

from segtasks.cli.look import storage_of, storage_option
from segtasks.cli.outcome import Outcome, counted
from segtasks.cli.settings import json_option

_shown = 20


@click.command("sweep", help="List objects of the shard set at URL that no snapshot and no open plan needs; with --delete, remove them.")
@click.argument("url")
@click.option("--delete", is_flag=True, help="remove them; without it nothing is touched")
@click.option(
    "--older-than", "hours", type=click.FloatRange(min=0), default=24.0, show_default=True, help="hours; longer than the longest run"
)
@storage_option
@json_option
def sweep(url: str, delete: bool, hours: float, file: str | None, as_json: bool) -> Outcome:
    from segtasks.shards.sweep import sweep as sweep_shards

    report = sweep_shards(url, storage_of(file), dry_run=not delete, age_seconds=hours * 3600)
    did = "removed" if delete else "would remove (--delete does)"
    lines = [f"{did}: {counted(len(report.removed), 'object')}, {report.bytes:,} bytes; {report.kept:,} are needed and stay"]
    lines += [f"  {path}" for path in report.removed[:_shown]]
    if len(report.removed) > _shown:
        lines.append(f"  and {len(report.removed) - _shown:,} more")
    if report.young:
        lines.append(f"{counted(report.young, 'orphan')} younger than {hours:g} h left alone: a run may be about to use them")
    if report.foreign:
        lines.append(f"{counted(len(report.foreign), 'object')} not written by segtasks left alone, for example {report.foreign[0]}")
    return Outcome(report.model_dump(mode="json"), lines)
