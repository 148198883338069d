"""What every shard stage does: claim the recipe, plan, map over the units that have no shard yet, publish.

Nothing here trusts an engine: after the map the store is listed, and what is not there is tried again or reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, overload

import pyarrow as pa

from segtasks import __version__
from segtasks.engines import JSON, Done, Engine, Failed, WorkerFactory
from segtasks.errors import CorruptError, IncompleteError, QuarantineLimit, StorageError, error_named
from segtasks.refs import Ref
from segtasks.shards.digest import add_digests
from segtasks.shards.journal import Journal, list_shards, read_journal
from segtasks.shards.plan import Plan, Unit, claim_plan, latest_plan, read_units, totals, write_units
from segtasks.shards.recipe import Recipe, claim_recipe, read_recipe
from segtasks.shards.records import ShardRecord, read_record
from segtasks.shards.snapshot import Snapshot, latest_snapshot, publish, snapshot_of_plan
from segtasks.shards.tables import read_table, write_table
from segtasks.stages._ahead import map_ahead
from segtasks.stages._copy import write_copies
from segtasks.stages._isolate import find_poison
from segtasks.stages._move import COMPACT, MoveFactory
from segtasks.stages._shard import work_item
from segtasks.stages.config import StageConfig
from segtasks.stages.progress import Progress
from segtasks.stages.result import StageResult
from segtasks.storage import Store

passes = 3  # over units that failed; before the last one, those that ended their worker twice are taken apart
store_failures = 3  # in a row, without a shard made between them: then the run ends
footer_threads = 16


@dataclass(frozen=True)
class Proposal:
    """What a plan would hold: units to make, rows of older shards that go (path -> positions), and rows that units take over from them."""

    units: Sequence[Unit]
    deletions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    copies: pa.Table | None = None  # see stages._copy
    changes: Mapping[str, int] = field(default_factory=dict)  # images by what is done with them, where the stage counts that


@dataclass(frozen=True)
class Stage:
    """One shard stage, configured. `propose` sees the output's latest snapshot and says what is left to do.

    A plan that somebody else left open is finished first. It was all that this run is for, unless `asked_for` says otherwise.
    """

    name: str
    config: StageConfig
    store: Store
    recipe: Recipe
    propose: Callable[[Snapshot | None], Proposal]
    make_worker: Callable[[Plan], WorkerFactory]
    input: Ref | None = None
    source: str | None = None
    summarise: Callable[[list[ShardRecord]], dict[str, Any]] | None = None
    kind: str = ""  # of its plans
    asked_for: Callable[[Plan], bool] = lambda plan: True


def run(stage: Stage, engine: Engine, progress: Progress) -> StageResult:
    """Run or resume the stage until a snapshot holds everything that its plan wants."""
    started = time.monotonic()
    if stage.config.dry_run:
        return _dry_run(stage)
    stage.store.probe()
    claim_recipe(stage.store, stage.recipe)
    computed = 0
    while (plan := _plan(stage)) is not None:
        snapshot, made = _finish(_maker_of(stage, plan), plan, engine, progress)
        computed += made
        if plan.kind == stage.kind and stage.asked_for(plan):
            return _result(stage, snapshot, computed, started, snapshot.file.changes)
    done = latest_snapshot(stage.store)
    assert done is not None, "nothing to plan and nothing published"
    return _result(stage, done, computed, started)


def _maker_of(stage: Stage, plan: Plan) -> Stage:
    """The stage that can finish the plan: this one, or compaction, which any run on the output can finish."""
    if plan.kind == COMPACT:
        config = stage.config.model_copy(update={"max_quarantined": 1.0})  # nothing is refused anew
        return replace(stage, config=config, make_worker=lambda plan: MoveFactory(config, stage.recipe.rows, plan))
    if stage.kind == plan.kind or snapshot_of_plan(latest_snapshot(stage.store), plan.number) is not None:
        return stage
    raise IncompleteError(
        f"plan {plan.number} of {stage.store.url} is not finished: segtasks {stage.recipe.stage} is at work on it, or was stopped. "
        f"Nothing was done; let segtasks {stage.recipe.stage} finish, then run segtasks {stage.name} again"
    )


def _finish(stage: Stage, plan: Plan, engine: Engine, progress: Progress) -> tuple[Snapshot, int]:
    """Make what is missing of the plan and publish it: the snapshot, and how many shards were made here."""
    units = list(read_units(stage.store, plan))
    records, computed = _make(stage, plan, units, engine, progress)
    _check(stage, plan, units, records)
    snapshot = publish(
        stage.store,
        recipe=stage.recipe,
        plan=plan.number,
        input=plan.input,
        source=plan.source,
        records=records,
        deletions=_read_deletions(stage.store, plan),
        changes=plan.changes,
        summarise=stage.summarise,
        only_moves=plan.kind == COMPACT,
    )
    progress({"event": "published", "stage": stage.name, "ref": str(snapshot.ref)})
    return snapshot, computed


def _dry_run(stage: Stage) -> StageResult:
    existing = read_recipe(stage.store)
    if existing is not None:
        claim_recipe(stage.store, stage.recipe)
    plan = latest_plan(stage.store)
    latest = latest_snapshot(stage.store)
    if plan is not None and snapshot_of_plan(latest, plan.number) is None:
        _maker_of(stage, plan)
        units, changes = list(read_units(stage.store, plan)), plan.changes
    else:
        proposal = stage.propose(latest)
        units, changes = list(proposal.units), dict(proposal.changes)
    present = {entry.path for entry in stage.store.list("shards")}
    todo = [unit for unit in units if unit.path not in present]
    inputs, _ = totals(units)
    return StageResult(
        stage=stage.name,
        url=stage.store.url,
        dry_run=True,
        already_done=not todo,
        details={
            "recipe": stage.recipe.id,
            "inputs": inputs,
            "input_bytes": sum(unit.bytes for unit in units),
            "shards": len(units),
            "shards_to_make": len(todo),
            **changes,
        },
    )


def _plan(stage: Stage) -> Plan | None:
    """The plan to work on: the open one, a new one, or None when everything is published."""
    plan, latest = latest_plan(stage.store), latest_snapshot(stage.store)
    if plan is not None and snapshot_of_plan(latest, plan.number) is None:
        return plan
    proposal = stage.propose(latest)
    if latest is not None and not proposal.units and not proposal.deletions:
        return None
    units = proposal.units if proposal.copies is None else write_copies(stage.store, proposal.units, proposal.copies)
    inputs, ids = totals(units)
    return claim_plan(
        stage.store,
        Plan(
            number=plan.number + 1 if plan else 1,
            kind=stage.kind,
            recipe=stage.recipe.id,
            config=stage.config.model_dump(mode="json"),
            input=stage.input,
            source=stage.source,
            units=write_units(stage.store, units),
            unit_count=len(units),
            inputs=inputs,
            ids=ids,
            deletions=_write_deletions(stage.store, proposal.deletions),
            base_snapshot=latest.number if latest else None,
            changes=dict(proposal.changes),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            segtasks=__version__,
        ),
    )


def _make(stage: Stage, plan: Plan, units: Sequence[Unit], engine: Engine, progress: Progress) -> tuple[list[ShardRecord], int]:
    """Every unit's record: read from the shards that are there, made for the others."""
    journal = Journal(stage.store, plan.number)
    records = _read_records(stage.store, plan, units, journal)
    tally = _Tally(stage, plan, units, progress)
    tally.start(records.values())
    made = _Made(stage, engine, stage.make_worker(plan), records, journal, tally, progress)
    for attempt in range(passes):
        todo = [unit for unit in units if unit.path not in records]
        if not todo:
            break
        suspects = [unit for unit in todo if attempt == passes - 1 and made.ended_its_worker(unit)]
        refused = find_poison(engine, made.make_worker, suspects) if suspects else {}
        made.run(_WorkItems(todo, refused))
    todo = [unit for unit in units if unit.path not in records]
    if todo:
        raise _incomplete(stage, len(units), todo, made.failures)
    return [records[unit.path] for unit in units], made.computed


def _read_records(store: Store, plan: Plan, units: Sequence[Unit], journal: Journal) -> dict[str, ShardRecord]:
    """The records of the shards that are there: from the plan's journal, and from the footers of those that are not in it."""
    present = list_shards(store)
    if not present:
        return {}
    known = read_journal(store, plan.number, present)
    records = {record.path: record for unit in units if (record := known.pop(unit.path, None)) is not None}
    unknown = (path for unit in units if (path := unit.path) in present and path not in records)
    for record in map_ahead(lambda path: read_record(store, path, present[path].size), unknown, footer_threads, 4 * footer_threads):
        records[record.path] = record
        journal.add(record)
    return records


class _WorkItems(Sequence[JSON]):
    """Units as work items, made when the engine takes them: as dicts, 100,000 of them take more memory than all else."""

    def __init__(self, units: Sequence[Unit], refused: Mapping[str, Mapping[int, str]]) -> None:
        self._units, self._refused = units, refused

    def __len__(self) -> int:
        return len(self._units)

    @overload
    def __getitem__(self, place: int) -> JSON: ...
    @overload
    def __getitem__(self, place: slice) -> _WorkItems: ...
    def __getitem__(self, place: int | slice) -> JSON | _WorkItems:
        if isinstance(place, slice):
            return _WorkItems(self._units[place], self._refused)
        unit = self._units[place]
        return work_item(unit, refused=self._refused.get(unit.key))


class _Made:
    """Maps work items and keeps what came of them."""

    def __init__(
        self,
        stage: Stage,
        engine: Engine,
        make_worker: WorkerFactory,
        records: dict[str, ShardRecord],
        journal: Journal,
        tally: _Tally,
        progress: Progress,
    ) -> None:
        self._stage, self._engine, self._tally, self._progress = stage, engine, tally, progress
        self.make_worker, self.records, self._journal = make_worker, records, journal
        self.failures: dict[str, Failed] = {}
        self.computed = 0
        self._store_failures = 0

    def ended_its_worker(self, unit: Unit) -> bool:
        failed = self.failures.get(unit.path)
        return failed is not None and failed.how != "raised"

    def _store_is_gone(self, outcome: Failed) -> bool:
        """Whether shards failed one after the other for the store alone: each took the store's whole deadline already."""
        self._store_failures = self._store_failures + 1 if outcome.error_type == StorageError.__name__ else 0
        return self._store_failures >= store_failures

    def run(self, items: Sequence[JSON]) -> None:
        with closing(self._engine.map(self.make_worker, items)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    record = ShardRecord.from_json(outcome.result)
                    self.records[record.path] = record
                    self._store_failures = 0
                    self.failures.pop(record.path, None)
                    self.computed += 1
                    self._journal.add(record)
                    self._tally.add(record)
                elif outcome.fatal or self._store_is_gone(outcome):
                    raise error_named(outcome.error_type, outcome.error)
                else:
                    unit = Unit.from_json(outcome.item["unit"])
                    self.failures[unit.path] = outcome
                    self._progress({"event": "retry", "stage": self._stage.name, "unit": unit.key, "error": outcome.error})


def _incomplete(stage: Stage, total: int, todo: Sequence[Unit], failures: Mapping[str, Failed]) -> IncompleteError:
    reasons = []
    for unit in todo:
        failed = failures.get(unit.path)
        reasons.append(f"{unit.path}: {failed.error_type}: {failed.error}" if failed else f"{unit.path}: not made")
    first = next((failed.traceback for failed in failures.values() if failed.traceback), "")
    listing = "\n".join(f"  {reason}" for reason in reasons[:10])
    return IncompleteError(
        f"{len(todo)} of {total} shards of {stage.store.url} could not be made in {passes} tries each; the others are kept, "
        f"and running again tries only these:\n{listing}" + (f"\nThe first failure:\n{first}" if first else ""),
        reasons,
    )


class _Tally:
    """Counts what is done and stops the run when too much is quarantined. What was refused before and is again does not count there."""

    def __init__(self, stage: Stage, plan: Plan, units: Sequence[Unit], progress: Progress) -> None:
        self._stage, self._plan, self._total, self._progress = stage, plan, len(units), progress
        self._shards = self._rows = self._quarantined = self._again = 0
        retried = [unit for unit in units if unit.retried]
        self._retried = {unit.key for unit in retried}
        self._inputs = plan.inputs - sum(unit.inputs for unit in retried)

    def start(self, records: Any) -> None:
        for record in records:
            self._count(record)
        self._progress(
            {
                "event": "plan",
                "stage": self._stage.name,
                "plan": self._plan.number,
                "units": self._total,
                "todo": self._total - self._shards,
                "inputs": self._plan.inputs,
            }
        )
        self._show()
        if self._shards == self._total:
            self._enforce()

    def add(self, record: ShardRecord) -> None:
        self._count(record)
        self._show()
        self._enforce()

    def _count(self, record: ShardRecord) -> None:
        self._shards += 1
        self._rows += record.inputs
        self._quarantined += record.quarantined
        self._again += record.quarantined if record.unit in self._retried else 0

    def _show(self) -> None:
        self._progress(
            {
                "event": "shard",
                "stage": self._stage.name,
                "done": self._shards,
                "total": self._total,
                "rows_done": self._rows,
                "rows_total": self._plan.inputs,
                "quarantined": self._quarantined,
            }
        )

    def _enforce(self) -> None:
        limit = self._stage.config.max_quarantined
        refused = self._quarantined - self._again
        if refused > limit * self._inputs:
            share = refused / max(1, self._inputs)
            raise QuarantineLimit(
                f"{refused} of {self._inputs} images are quarantined ({share:.1%}); max_quarantined allows {limit:.1%}. "
                "Finished shards are kept and nothing is published. To publish without these images run again with max_quarantined="
                f"{min(1.0, round(share + 0.005, 2))} or more; images that are mended later are read again by the next run"
            )


def _check(stage: Stage, plan: Plan, units: Sequence[Unit], records: Sequence[ShardRecord]) -> None:
    """The coverage proof: every unit has its shard, and the ids that came out are those that the plan put in."""
    for unit, record in zip(units, records, strict=True):
        if (record.unit, record.ids, record.inputs) != (unit.key, unit.ids, unit.inputs):
            raise CorruptError(
                f"{stage.store.url_of(record.path)} holds {record.inputs} inputs with digest {record.ids}; the plan put in "
                f"{unit.inputs} with {unit.ids}: it was replaced by hand, delete it and run again"
            )
    if add_digests(record.ids for record in records) != plan.ids:
        raise CorruptError(f"the shards of {stage.store.url} do not add up to plan {plan.number}; run segtasks verify")


def _write_deletions(store: Store, deletions: Mapping[str, Sequence[int]]) -> str | None:
    if not deletions:
        return None
    schema = pa.schema([("path", pa.string()), ("rows", pa.list_(pa.int32()))])
    rows = [{"path": path, "rows": list(positions)} for path, positions in sorted(deletions.items())]
    return write_table(store, "plans/lists", pa.Table.from_pylist(rows, schema=schema))


def _read_deletions(store: Store, plan: Plan) -> dict[str, list[int]]:
    if plan.deletions is None:
        return {}
    return {row["path"]: row["rows"] for row in read_table(store, "plans/lists", plan.deletions).to_pylist()}


def _result(stage: Stage, snapshot: Snapshot, computed: int, started: float, changes: Mapping[str, int] | None = None) -> StageResult:
    return StageResult(
        stage=stage.name,
        url=stage.store.url,
        snapshot=snapshot.number,
        already_done=computed == 0 and not changes,
        counts=snapshot.counts.model_dump(),
        computed_shards=computed,
        seconds=round(time.monotonic() - started, 3),
        details={
            "recipe": snapshot.file.recipe,
            **(changes or {}),
            **({"summary": snapshot.file.summary} if snapshot.file.summary else {}),
        },
    )
