"""Thousands of shards: what a resume reads, counted."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.control_plane import NoEngine, make_stage
from segtasks.engines import EngineConfig, open_engine
from segtasks.shards import open_snapshot, verify
from segtasks.shards.journal import journal_folder
from segtasks.shards.sweep import sweep
from segtasks.stages import _run
from segtasks.stages._run import Stage
from segtasks.storage import Store

pytestmark = pytest.mark.slow
UNITS, BEFORE_THE_KILL = 2600, 2500


class CountingStore(Store):
    """Counts reads of a part of an object, which is how footers are read."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        super().__init__(url, options)
        self.ranges: Counter[str] = Counter()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        self.ranges[path] += 1
        return super().read_range(path, start, end)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def killed() -> dict[str, bytes]:
    """The objects of a stage that was stopped after 2,500 of 2,600 shards, shards first."""
    folder = f"memory://scale-{uuid.uuid4().hex}"

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "shard" and event["done"] == BEFORE_THE_KILL:
            raise Killed

    with pytest.raises(Killed):
        _run.run(make_stage(folder, UNITS, "local"), open_engine(EngineConfig(name="local", workers=0)), stop)
    return taken(Store(folder))


@pytest.fixture
def url(killed: dict[str, bytes]) -> Iterator[str]:
    store = Store(f"memory://scale-{uuid.uuid4().hex}")
    for path, data in killed.items():
        store.create(path, data)
    yield store.url
    taken(store)


def taken(store: Store) -> dict[str, bytes]:
    found = {}
    for entry in sorted(store.list(), key=lambda entry: not entry.path.startswith("shards/")):
        found[entry.path] = store.read(entry.path)
        store.delete(entry.path)
    return found


def counting(folder: str) -> tuple[Stage, CountingStore]:
    store = CountingStore(folder)
    return make_stage(folder, UNITS, "local", store), store


def unpublish(store: Store) -> None:
    for entry in list(store.list("snapshots")):
        store.delete(entry.path)


def test_a_resume_reads_a_list_for_a_thousand_finished_shards_and_the_other_footers_once(url: str) -> None:
    stage, store = counting(url)
    result = _run.run(stage, open_engine(EngineConfig(name="local", workers=0)), lambda event: None)
    assert (result.computed_shards, result.counts["shards"], result.snapshot) == (UNITS - BEFORE_THE_KILL, UNITS, 1)
    assert (store.ranges.total(), max(store.ranges.values())) == (BEFORE_THE_KILL - 2000, 1)

    unpublish(store)  # as if it had been killed just before; the footers read above are in the journal by now
    stage, store = counting(url)
    published = _run.run(stage, NoEngine(), lambda event: None)
    assert (published.computed_shards, published.counts["shards"]) == (0, UNITS)
    assert (store.ranges.total(), max(store.ranges.values())) == (UNITS % 1000, 1)
    assert verify(url).problems == ()


def test_without_its_journal_a_resume_reads_each_footer_once_and_publishes_the_same(url: str) -> None:
    stage, store = counting(url)
    _run.run(stage, open_engine(EngineConfig(name="local", workers=0)), lambda event: None)
    before = open_snapshot(url)
    for entry in list(store.list(journal_folder(1))):
        store.delete(entry.path)
    unpublish(store)
    stage, store = counting(url)
    result = _run.run(stage, NoEngine(), lambda event: None)
    assert (result.computed_shards, result.counts["shards"]) == (0, UNITS)
    assert (len(store.ranges), set(store.ranges.values())) == (UNITS, {1})
    assert open_snapshot(url).file.lists == before.file.lists


def test_sweep_removes_the_journal_of_a_published_plan_and_keeps_that_of_an_open_one(url: str) -> None:
    stage, store = counting(url)
    _run.run(stage, open_engine(EngineConfig(name="local", workers=0)), lambda event: None)
    journal = {entry.path for entry in store.list(journal_folder(1))}
    assert len(journal) >= 2
    assert journal <= set(sweep(url, dry_run=True, age_seconds=0).removed)
    unpublish(store)
    report = sweep(url, dry_run=True, age_seconds=0)
    assert (report.removed, report.foreign) == ((), ())
