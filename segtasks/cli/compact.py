"""`compact`: merge the small shards of a shard set."""

from __future__ import annotations

from typing import Any

import click

from segtasks.cli.outcome import Outcome
from segtasks.cli.settings import WithSettings, engine_options, json_option, load
from segtasks.cli.stages import result_lines, run
from segtasks.stages.config import CompactConfig

_fields = CompactConfig.model_fields


@click.command("compact", cls=WithSettings, help=CompactConfig.__doc__)
@click.argument("url")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-c", "--config", "file", metavar="FILE", help="YAML file with settings")
@click.option("--target-bytes", type=int, metavar="N", help=_fields["target_bytes"].description)
@click.option("--dry-run", is_flag=True, default=None, help=_fields["dry_run"].description)
@json_option
def compact(url: str, overrides: tuple[str, ...], file: str | None, as_json: bool, **given: Any) -> Outcome:
    result = run("compact", load(CompactConfig, file, {"output": url, **given}, overrides))
    return Outcome(result.model_dump(mode="json"), result_lines(result))


assert isinstance(compact, WithSettings)
compact.model = CompactConfig
compact.shown_as_options = ("output", "target_bytes", "dry_run", "engine.name", "engine.address", "engine.workers")
for option in reversed(engine_options()):
    option(compact)
