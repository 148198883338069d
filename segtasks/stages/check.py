"""Check: what is wrong with a data set, before a GPU is paid for. One row an image holds what was measured, and no verdict.

What becomes a finding is decided afterwards, in the driver and from small columns, so that another threshold reads no image again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segtasks.checks.result import CheckReport
from segtasks.config import output_part, validate
from segtasks.engines import Engine
from segtasks.errors import DataFault, InputError, TooManyFindings
from segtasks.refs import Ref
from segtasks.reporting.check import render_check
from segtasks.shards.pixels import IMAGE_COLUMNS
from segtasks.shards.plan import Plan, Unit
from segtasks.shards.recipe import Recipe, read_recipe
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.shards.writer import ok
from segtasks.stages._ahead import map_ahead
from segtasks.stages._checked import build_report
from segtasks.stages._derive import Rows, propose_derived, read_unit
from segtasks.stages._measure import measure
from segtasks.stages._offenders import offenders
from segtasks.stages._run import Proposal, Stage, run
from segtasks.stages._shard import ShardWorker
from segtasks.stages.config import CheckConfig, IngestConfig
from segtasks.stages.ingest import ingest
from segtasks.stages.preprocess import require_rows
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import Store, open_store

VERSION = 1  # raised when the rows change for the same configuration
PAGE, REPORT = "check.html", "check.json"
threads = 2
told = 20  # findings of a kind that the result carries


def check(config: CheckConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Measure every image of `config.data` and write what is wrong as `check.json` and `check.html` under `config.output`.

    `TooManyFindings` (exit 3), which carries the result, where there are more of a kind than `max_findings` allows.
    """
    store = open_store(config.output, config.storage)
    if config.format is not None:
        ingested = ingest(_ingest_config(config, store), engine, progress)
        if config.dry_run:
            return ingested.model_copy(update={"stage": "check", "url": store.url})
        config = config.model_copy(update={"data": f"{ingested.url}@{ingested.snapshot}"})
    elif read_recipe(open_store(Ref.parse(config.data).url, config.storage)) is None:
        raise InputError(
            f"no shard set at {config.data} (looked for recipe.json); for a data set in its own layout say which: "
            "--format NAME (segtasks readers lists them)"
        )
    parent = open_snapshot(config.data, config.storage)
    require_rows(parent, "samples/1")
    recipe = Recipe(
        stage="check", version=VERSION, rows="check/1", config=output_part(config), inputs={"data": parent.file.recipe}, spec=parent.spec
    )
    stage = Stage(
        name="check",
        config=config,
        store=store,
        recipe=recipe,
        propose=lambda own: _propose(parent, recipe.id, own, config),
        make_worker=lambda plan: _Factory(config, plan),
        input=parent.ref,
    )
    result = run(stage, engine, progress)
    if config.dry_run:
        return result
    assert result.snapshot is not None
    return _conclude(config, store, open_snapshot(f"{store.url}@{result.snapshot}", config.storage), parent, result)


def _ingest_config(config: CheckConfig, store: Store) -> IngestConfig:
    filled = {
        "source": config.data,
        "format": config.format,
        "output": store.url_of("data"),
        **{name: getattr(config, name) for name in ("engine", "storage", "dry_run", "limits")},
    }
    return validate(IngestConfig, {**config.ingest, **filled}, where="ingest")


def _propose(parent: Snapshot, recipe_id: str, own: Snapshot | None, config: CheckConfig) -> Proposal:
    if not parent.counts.done:
        return Proposal([])  # all are refused, which is what there is to tell
    return propose_derived(parent, recipe_id, own, where=config.where, limit=config.limit, volumes=True)


def _conclude(config: CheckConfig, store: Store, own: Snapshot, parent: Snapshot, result: StageResult) -> StageResult:
    """Judge, write report and page, and raise where a limit is passed."""
    report, rows = build_report(own, parent, config)
    store.replace(REPORT, report.model_dump_json(indent=1).encode("utf-8", "backslashreplace"))
    store.replace(PAGE, render_check(report, parent.spec, offenders(report, rows, parent, config)).encode())
    found = {one.kind: one.count for one in report.found if one.count}
    details = {
        **result.details,
        "page": store.url_of(PAGE),
        "report": store.url_of(REPORT),
        "findings": found,
        "over": [one.kind for one in report.over],
        "check": _shortened(report).model_dump(mode="json"),
    }
    result = result.model_copy(update={"details": details})
    if report.over:
        lines = [f"{one.kind} {one.count:,} (max_findings.{one.kind} is {one.allowed})" for one in report.over]
        raise TooManyFindings(f"{parent.ref} has more findings than are allowed: {', '.join(lines)}; see {store.url_of(PAGE)}", result)
    return result


def _shortened(report: CheckReport) -> CheckReport:
    found = tuple(one.model_copy(update={"findings": one.findings[:told]}) for one in report.found)
    return report.model_copy(update={"found": found, "sizes": report.sizes[:told]})


@dataclass(frozen=True)
class _Factory:
    config: CheckConfig
    plan: Plan

    def __call__(self) -> _Worker:
        return _Worker(self.config, self.plan)


class _Worker(ShardWorker[dict[str, Any]]):
    """Decodes and measures."""

    def __init__(self, config: CheckConfig, plan: Plan) -> None:
        super().__init__("check/1", open_store(config.output, config.storage), plan, config.limits)
        assert plan.input is not None
        self._parent = open_snapshot(plan.input, config.storage)
        self._spec, self._storage = self._parent.spec, config.storage

    def inputs(self, unit: Unit) -> Sequence[dict[str, Any]]:
        return Rows(read_unit(self._parent, unit, [*_KEPT, *IMAGE_COLUMNS, "axes", "mask", "instances", "meta"]))

    def make_rows(self, inputs: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        return map_ahead(self._rows, inputs, threads=threads, ahead=2 * threads)

    def origin(self, one: dict[str, Any]) -> dict[str, Any]:
        return {name: one[name] for name in ("image_id", *_KEPT)}

    def _rows(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return [ok({**self.origin(row), **measure(row, self._spec, self._storage)})]
        except DataFault as fault:
            return [self.refuse(row, fault)]


_KEPT = ["group_id", "split"]
