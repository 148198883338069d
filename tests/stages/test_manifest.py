"""The cut: shards of a size, small splits in several, groups whole wherever they are listed, and the same units every time."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from pathlib import Path

import pytest

from segtasks.readers._base import SourceItem
from segtasks.shards.plan import LISTS, Unit
from segtasks.shards.tables import read_table
from segtasks.stages._manifest import Namer, Spool, make_units
from segtasks.storage import Store, open_store

MIB = 1 << 20


def item(number: int, *, split: str = "", group: str = "", size: int = 100, details: str = "") -> SourceItem:
    return SourceItem(f"i{number}", f"p{number}", size, f"v{number}", split, group, {"mask": f"m{number}"}, details)


def units_of(items: list[SourceItem], store: Store | None = None, shard_bytes: int = MIB, shard_rows: int = 10_000) -> list[Unit]:
    with Spool() as spool:
        for one in items:
            spool.add(one)
        return make_units(spool, shard_bytes, shard_rows, Namer("recipe", 0, frozenset()), store)


def items_in(store: Store, unit: Unit) -> list[str]:
    table = read_table(store, LISTS, unit.items).slice(unit.first_item, unit.inputs)
    assert set(table["unit"].to_pylist()) == {unit.key}
    ids: list[str] = table["image_id"].to_pylist()
    return ids


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_shards_have_their_size_in_bytes_and_rows_and_hold_every_item_once_in_listing_order(store: Store) -> None:
    items = [item(number, size=1 + number % 5000, split="ab"[number % 2]) for number in range(30_000)]
    units = units_of(items, store, shard_rows=2000)
    assert all(unit.bytes <= MIB and unit.inputs <= 2000 for unit in units)
    for split in "ab":
        found = list(itertools.chain.from_iterable(items_in(store, unit) for unit in units if unit.split == split))
        assert found == [one.image_id for one in items if one.split == split]


@pytest.mark.parametrize(("count", "shards"), [(1, 1), (16, 1), (17, 2), (100, 7), (128, 8), (1000, 8), (80_000, 8), (90_000, 9)])
def test_a_split_has_eight_shards_where_it_has_sixteen_images_for_each(count: int, shards: int) -> None:
    assert len(units_of([item(number, size=1) for number in range(count)])) == shards


def test_a_group_is_in_one_shard_also_where_its_images_are_far_apart_in_the_listing(store: Store) -> None:
    draw = random.Random(3)
    items = [item(number, group=f"g{draw.randrange(300)}" if number % 7 else "", split=draw.choice("ab")) for number in range(20_000)]
    units = units_of(items, store, shard_bytes=40_000)
    shards = defaultdict(set)
    by_id = {one.image_id: one for one in items}
    for unit in units:
        assert unit.bytes <= 40_000
        for image_id in items_in(store, unit):
            shards[unit.split, by_id[image_id].group_id].add(unit.key)
    assert {len(keys) for (_, group), keys in shards.items() if group} == {1}
    assert sum(unit.inputs for unit in units) == 20_000


def test_a_group_that_is_larger_than_a_shard_is_cut_by_bytes_too(store: Store) -> None:
    units = units_of([item(number, group="video", size=MIB // 4) for number in range(40)], store)
    assert [unit.inputs for unit in units] == [4] * 10


def test_the_same_items_make_the_same_units_and_lists_and_another_version_another_one(store: Store) -> None:
    items = [item(number) for number in range(500)]
    first, second = units_of(items, store), units_of(items, store)
    assert first == second
    items[123] = SourceItem("i123", "p123", 100, "other", "", "", {"mask": "m123"})
    changed = units_of(items, store)
    assert [one.key != other.key for one, other in zip(first, changed, strict=True)] == [at == 1 for at in range(8)]


def test_items_come_back_as_they_were_and_long_details_start_another_manifest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segtasks.stages._manifest._details_a_manifest", 1000)
    items = [item(number, split="train", group="g", details="x" * (number % 100)) for number in range(100)]
    units = units_of(items, store)
    assert len({unit.items for unit in units}) > 2
    row = read_table(store, LISTS, units[0].items).slice(units[0].first_item, 1).to_pylist()[0]
    assert row == {
        "unit": units[0].key,
        "image_id": "i0",
        "path": "p0",
        "size": 100,
        "version": "v0",
        "split": "train",
        "group_id": "g",
        "labels": '{"mask": "m0"}',
        "details": "",
    }
