"""Snapshots: `snapshots/000001.json` is THE commit of a shard set. Readers see the whole of one, or nothing.

A snapshot names lists of shards by their content. A later list overrides an earlier one for the same path, so that a delta adds
a list and rewrites none. Latest means the highest number.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from segtasks import __version__
from segtasks.config import Config, validate
from segtasks.errors import ConfigError, CorruptError, InputError, did_you_mean
from segtasks.refs import Ref
from segtasks.shards.digest import add_digests, canonical_json, digest_ids, subtract_digest
from segtasks.shards.drop import Dropped, drop_rows, key_column
from segtasks.shards.recipe import Recipe, require_recipe
from segtasks.shards.records import ShardRecord, records_of, table_of
from segtasks.shards.schema import BLOBS, schema_named
from segtasks.shards.tables import read_parquet, read_table, write_table
from segtasks.shards.writer import EMPTY, OK, QUARANTINED
from segtasks.spec import DatasetSpec
from segtasks.storage import StorageOptions, Store, open_store

LISTS = "snapshots/lists"


class Counts(Config):
    """Live rows: `rows = done + quarantined + empty`; deleted rows are in none of them."""

    rows: int
    done: int
    quarantined: int
    empty: int = Field(description="inputs that made no row")
    shards: int
    bytes: int
    inputs: int = Field(description="ids that came in; equal to the ids that went out, or there is no snapshot")


class SnapshotFile(Config):
    """`snapshots/<number>.json`."""

    format: int = 1
    number: int = Field(ge=1)
    parent: int | None
    plan: int
    recipe: str
    rows: str = Field(description="schema of the rows")
    spec: DatasetSpec
    input: Ref | None
    source: str | None
    counts: Counts
    ids: str = Field(description="digest of the ids of all live inputs: the coverage proof")
    errors: dict[str, int] = Field(description="shards in which each error type occurs")
    changes: dict[str, int] = Field(
        default_factory=dict, description="images by what its plan did with them: new, changed, retried, dropped"
    )
    lists: tuple[str, ...]
    summary: dict[str, Any] = Field(default_factory=dict, description="result that was added up over the shards (evaluation)")
    created_at: str
    segtasks: str


def snapshot_path(number: int) -> str:
    return f"snapshots/{number:06d}.json"


def snapshot_numbers(store: Store) -> list[int]:
    """All published numbers, ascending."""
    found = (re.fullmatch(r"snapshots/([0-9]{6,})\.json", entry.path) for entry in store.list("snapshots"))
    return sorted(int(match[1]) for match in found if match)


def read_snapshot_file(store: Store, number: int) -> SnapshotFile:
    path = snapshot_path(number)
    try:
        return validate(SnapshotFile, json.loads(store.read(path)), where=store.url_of(path))
    except ValueError as error:
        raise CorruptError(f"{store.url_of(path)} is not JSON: {error}") from error


def latest_snapshot(store: Store) -> Snapshot | None:
    numbers = snapshot_numbers(store)
    return Snapshot(store, read_snapshot_file(store, numbers[-1])) if numbers else None


def open_snapshot(ref: Ref | str, storage: StorageOptions | None = None) -> Snapshot:
    """The snapshot that `ref` names (the latest one without a number). `InputError` where there is none."""
    ref = Ref.parse(ref) if isinstance(ref, str) else ref
    store = open_store(ref.url, storage)
    numbers = snapshot_numbers(store)
    if not numbers:
        require_recipe(store)
        raise InputError(
            f"{ref.url} has no published snapshot: its run is not finished, or was stopped by max_quarantined; run the same command again"
        )
    number = ref.snapshot or numbers[-1]
    if number not in numbers:
        raise InputError(f"{ref.url} has no snapshot {number}; it has {numbers[0]} to {numbers[-1]}")
    return Snapshot(store, read_snapshot_file(store, number))


class Snapshot:
    """One published state of a shard set, for reading."""

    def __init__(self, store: Store, file: SnapshotFile) -> None:
        self.store = store
        self.file = file

    @property
    def number(self) -> int:
        return self.file.number

    @property
    def spec(self) -> DatasetSpec:
        return self.file.spec

    @property
    def counts(self) -> Counts:
        return self.file.counts

    @property
    def ref(self) -> Ref:
        return Ref(url=self.store.url, snapshot=self.number)

    @cached_property
    def recipe(self) -> Recipe:
        recipe = require_recipe(self.store)
        if recipe.id != self.file.recipe:
            raise CorruptError(f"{self.ref} was made by recipe {self.file.recipe}; recipe.json is {recipe.id}: one was replaced")
        return recipe

    @cached_property
    def listed(self) -> dict[str, ShardRecord]:
        """Every shard that the lists name, by path and in their order, also those that have no live row any more."""
        found: dict[str, ShardRecord] = {}
        for name in self.file.lists:
            found |= {record.path: record for record in records_of(read_table(self.store, LISTS, name))}
        return found

    @cached_property
    def records(self) -> dict[str, ShardRecord]:
        """The shards by path, in the order of the lists. One whose rows are all deleted is none any more."""
        return {path: record for path, record in self.listed.items() if record.live_rows}

    def shards(self, splits: Sequence[str] | None = None) -> list[ShardRecord]:
        """The shards, of these splits only if given."""
        if splits is not None:
            known = {record.split for record in self.records.values()}
            for split in splits:
                if split not in known:
                    raise ConfigError(f"{self.ref} has no split {split!r}.{did_you_mean(split, known)}")
        return [record for record in self.records.values() if splits is None or record.split in splits]

    def read(
        self,
        record: ShardRecord,
        columns: Sequence[str] | None = None,
        *,
        include_quarantined: bool = False,
        rows: Sequence[int] | None = None,
    ) -> pa.Table:
        """Live rows of one shard in their order; done ones only, unless asked. `rows` picks positions in the file."""
        schema = schema_named(self.file.rows)
        for name in columns or ():
            if name not in schema.names:
                raise ConfigError(f"{self.ref} has no column {name!r}.{did_you_mean(name, schema.names)}")
        wanted = list(columns) if columns is not None else schema.names
        fetched = wanted if "status" in wanted else [*wanted, "status"]
        if any(name in BLOBS for name in wanted):
            table = read_parquet(pa.BufferReader(self.store.read(record.path)), columns=fetched)
        else:
            with self.store.open(record.path) as file:
                table = read_parquet(file, columns=fetched)
        keep = live_rows(record, table["status"], include_quarantined=include_quarantined)
        if rows is not None:
            live = set(keep)
            keep = [position for position in rows if position in live]
        return table.take(pa.array(keep, pa.int64())).select(wanted) if len(keep) != table.num_rows else table.select(wanted)

    def quarantined(self) -> Iterator[dict[str, Any]]:
        """image_id, split, error_type and error of every live quarantined row."""
        columns = ["image_id", "split", "status", "error_type", "error"]
        for record in self.shards():
            if record.quarantined:
                for row in self.read(record, columns, include_quarantined=True).to_pylist():
                    if row.pop("status") == QUARANTINED:
                        yield row

    def read_all(self, columns: Sequence[str], *, splits: Sequence[str] | None = None, include_quarantined: bool = False) -> pa.Table:
        """Live rows of every shard; for small columns."""
        tables = [self.read(record, columns, include_quarantined=include_quarantined) for record in self.shards(splits)]
        schema = schema_named(self.file.rows)
        return pa.concat_tables(tables) if tables else pa.schema([schema.field(name) for name in columns]).empty_table()


def live_rows(record: ShardRecord, status: pa.ChunkedArray, *, include_quarantined: bool = False) -> list[int]:
    """Positions in the file of rows that are neither deleted nor (unless asked) quarantined nor empty."""
    wanted = [OK, QUARANTINED] if include_quarantined else [OK]
    positions = pc.indices_nonzero(pc.is_in(status, pa.array(wanted))).to_pylist()
    gone = set(record.deleted_rows)
    return [position for position in positions if position not in gone]


def publish(
    store: Store,
    *,
    recipe: Recipe,
    plan: int,
    input: Ref | None,
    source: str | None,
    records: Iterable[ShardRecord],
    deletions: Mapping[str, Sequence[int]] | None = None,
    changes: Mapping[str, int] | None = None,
    summarise: Any = None,
    only_moves: bool = False,
) -> Snapshot:
    """Publish `records` on top of the latest snapshot. Who loses a number reads again, rebases and tries the next.

    `deletions` are rows (path -> positions) of older shards that this snapshot drops. A plan that is already published
    returns its snapshot. `only_moves`: `CorruptError` unless the new shards hold just what the old ones lose.
    """
    new = sorted(records, key=lambda record: record.path)
    while True:
        parent = latest_snapshot(store)
        published = snapshot_of_plan(parent, plan)
        if published is not None:
            return published
        dropped = drop_rows(store, recipe.rows, parent.records if parent else {}, deletions or {})
        changed = [one.record for one in dropped] + new
        lists = parent.file.lists if parent else ()
        if changed:
            name = write_table(store, LISTS, table_of(changed))
            lists = (*lists, name)
        listed = {**(parent.records if parent else {}), **{record.path: record for record in changed}}
        records_now = [record for record in listed.values() if record.live_rows]
        file = SnapshotFile(
            number=(parent.number + 1) if parent else 1,
            parent=parent.number if parent else None,
            plan=plan,
            recipe=recipe.id,
            rows=recipe.rows,
            spec=recipe.spec,
            input=input,
            source=source,
            counts=_counts_after(parent, dropped, new),
            ids=_ids_after(parent, dropped, new),
            errors=dict(Counter(error for record in records_now for error in record.errors)),
            changes=dict(changes or {}),
            lists=lists,
            summary=summarise(records_now) if summarise else {},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            segtasks=__version__,
        )
        if only_moves and parent is not None and not _same_rows(parent.file, file):
            raise CorruptError(
                f"{store.url}: plan {plan} would lose or invent rows: {parent.counts} became {file.counts}; run segtasks verify"
            )
        if store.create(snapshot_path(file.number), canonical_json(file.model_dump(mode="json"))):
            return Snapshot(store, file)


def _same_rows(before: SnapshotFile, after: SnapshotFile) -> bool:
    sizes = {"shards", "bytes"}
    return (before.ids, before.counts.model_dump(exclude=sizes)) == (after.ids, after.counts.model_dump(exclude=sizes))


def snapshot_of_plan(latest: Snapshot | None, plan: int) -> Snapshot | None:
    """The snapshot that published `plan`, looked for from the latest one back; None where the plan is still open."""
    current = latest
    while current is not None and current.file.plan >= plan:
        if current.file.plan == plan:
            return current
        parent = current.file.parent
        current = Snapshot(current.store, read_snapshot_file(current.store, parent)) if parent else None
    return None


def deleted_facts(store: Store, rows_schema: str, record: ShardRecord) -> tuple[set[str], Counter[str]]:
    """Of a shard's deleted rows: the input ids that are gone with them, and how many there were of each status."""
    if not record.deleted_rows:
        return set(), Counter()
    key = key_column(rows_schema)
    with store.open(record.path) as file:
        table = read_parquet(file, columns=[key, "status"])
    gone = table.take(pa.array(record.deleted_rows, pa.int64()))
    return set(gone[key].to_pylist()), Counter(gone["status"].to_pylist())


def count(store: Store, rows_schema: str, records: Iterable[ShardRecord]) -> Counts:
    done = quarantined = empty = shards = size = inputs = 0
    for record in records:
        ids, gone = deleted_facts(store, rows_schema, record)
        done += record.done - gone[OK]
        quarantined += record.quarantined - gone[QUARANTINED]
        empty += record.empty - gone[EMPTY]
        inputs += record.inputs - len(ids)
        shards, size = shards + 1, size + record.bytes
    rows = done + quarantined + empty
    return Counts(rows=rows, done=done, quarantined=quarantined, empty=empty, shards=shards, bytes=size, inputs=inputs)


def _counts_after(parent: Snapshot | None, dropped: Sequence[Dropped], new: Sequence[ShardRecord]) -> Counts:
    """The parent's counts with what came and went; no other shard is looked at. `verify` counts all of them again."""
    total: Counter[str] = Counter(parent.counts.model_dump() if parent else {})
    for one in dropped:
        gone, emptied = one.statuses, not one.record.live_rows
        total.subtract({"done": gone[OK], "quarantined": gone[QUARANTINED], "empty": gone[EMPTY], "inputs": len(one.ids)})
        total.subtract({"rows": gone.total(), "shards": emptied, "bytes": one.record.bytes if emptied else 0})
    for record in new:
        total.update({"done": record.done, "quarantined": record.quarantined, "empty": record.empty, "inputs": record.inputs})
        total.update({"rows": record.rows, "shards": 1, "bytes": record.bytes})
    return Counts(**{name: total[name] for name in Counts.model_fields})


def _ids_after(parent: Snapshot | None, dropped: Sequence[Dropped], new: Sequence[ShardRecord]) -> str:
    gone = digest_ids(item for one in dropped for item in one.ids)
    return subtract_digest(add_digests([*([parent.file.ids] if parent else []), *(record.ids for record in new)]), gone)
