"""Remove what killed runs left behind: objects that no snapshot and no open plan needs. Says first what it would do."""

from __future__ import annotations

import re
import time

from pydantic import Field

from segtasks.config import Config
from segtasks.errors import InputError
from segtasks.shards.journal import journal_folder
from segtasks.shards.plan import latest_plan, read_plan, read_units
from segtasks.shards.recipe import PATH as RECIPE
from segtasks.shards.recipe import require_recipe
from segtasks.shards.snapshot import Snapshot, read_snapshot_file, snapshot_numbers, snapshot_of_plan
from segtasks.storage import Entry, StorageOptions, open_store

_OURS = re.compile(
    r"(plans|snapshots)/((lists|[0-9]{6,}/records)/[0-9a-f]{32}\.parquet|[0-9]{6,}/plan\.json|[0-9]{6,}\.json)"
    r"|shards/[^/]+/part-[0-9a-f]{32}\.parquet"
)
default_age_seconds = 24 * 3600.0


class SweepReport(Config):
    """What is, or would be, removed."""

    url: str
    dry_run: bool
    removed: tuple[str, ...] = Field(description="orphans old enough")
    bytes: int
    kept: int = Field(description="objects that a snapshot or the open plan needs")
    young: int = Field(description="orphans younger than the age limit: a running process may be about to use them")
    foreign: tuple[str, ...] = Field(description="objects that segtasks did not write; never touched")


def sweep(
    url: str, storage: StorageOptions | None = None, *, dry_run: bool = True, age_seconds: float = default_age_seconds
) -> SweepReport:
    """Remove orphans older than `age_seconds`. Every snapshot's objects and the open plan's shards are kept.

    The limit must be longer than the longest run: a shard that a running process has written belongs to no snapshot yet, and
    only its plan protects it.
    """
    if age_seconds < 0:
        raise InputError(f"the age limit is {age_seconds} seconds; needed: 0 or more")
    store = open_store(url, storage)
    if require_recipe(store).stage == "train":
        raise InputError(f"{url} is a training output; its checkpoints are pruned by keep_checkpoints, and sweep is for shard sets")
    needed = {RECIPE}
    latest: Snapshot | None = None
    for number in snapshot_numbers(store):
        latest = Snapshot(store, read_snapshot_file(store, number))
        needed.add(f"snapshots/{number:06d}.json")
        needed |= {f"snapshots/lists/{name}.parquet" for name in latest.file.lists}
        needed |= set(latest.records)
    plan = latest_plan(store)
    for number in range(1, plan.number + 1 if plan else 1):
        one = read_plan(store, number)
        needed.add(f"plans/{number:06d}/plan.json")
        needed |= {f"plans/lists/{name}.parquet" for name in (*one.units, *([one.deletions] if one.deletions else []))}
        units = list(read_units(store, one))
        needed |= {f"plans/lists/{name}.parquet" for unit in units for name in (unit.items, unit.copies) if name}
        if plan is not None and number == plan.number and snapshot_of_plan(latest, number) is None:
            needed |= {unit.path for unit in units}
            needed |= {entry.path for entry in store.list(journal_folder(number))}
    now = time.time()
    orphans, foreign, kept = [], [], 0
    for entry in store.list():
        if entry.path in needed:
            kept += 1
        elif _OURS.fullmatch(entry.path):
            orphans.append(entry)
        else:
            foreign.append(entry.path)
    leftovers = list(store.leftovers())
    left = {entry.path for entry in leftovers}
    orphans = [*orphans, *leftovers]
    old = [entry for entry in orphans if _age(entry, now) >= age_seconds]
    if not dry_run:
        for entry in old:
            store.delete(entry.path)
    return SweepReport(
        url=store.url,
        dry_run=dry_run,
        removed=tuple(entry.path for entry in old),
        bytes=sum(entry.size for entry in old),
        kept=kept,
        young=len(orphans) - len(old),
        foreign=tuple(path for path in foreign if path not in left),
    )


def _age(entry: Entry, now: float) -> float:
    return now - entry.modified if entry.modified else 0.0
