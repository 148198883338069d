"""Splits chosen by hash: near the shares, stable as the source grows, groups whole, the source's own kept unless asked."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from segtasks.config import validate
from segtasks.errors import ConfigError, InputError, RecipeMismatch
from segtasks.readers._base import SourceItem
from segtasks.shards import open_snapshot
from segtasks.stages._split import split_of, with_splits
from segtasks.stages.config import IngestConfig
from tests.stages import world
from tests.stages.listed import write_list

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
LISTED = "tests.stages.listed"


def splits_of(url: Path) -> dict[str, str]:
    rows = open_snapshot(str(url)).read_all(["image_id", "split"]).to_pylist()
    return {row["image_id"]: row["split"] for row in rows}


@pytest.mark.parametrize("seed", range(5))
def test_ten_thousand_ids_are_within_four_standard_deviations_of_the_shares(seed: int) -> None:
    found = Counter(split_of(f"images/{number:05d}.jpg", SHARES, seed) for number in range(10_000))
    for split, share in SHARES.items():
        assert abs(found[split] - 10_000 * share) < 4 * math.sqrt(10_000 * share * (1 - share))


def test_seeds_choose_independently_and_the_order_in_which_shares_are_written_changes_nothing() -> None:
    ids = [f"i{number}" for number in range(10_000)]
    both = sum(split_of(one, SHARES, 0) == "val" and split_of(one, SHARES, 1) == "val" for one in ids)
    assert abs(both - 100) < 4 * math.sqrt(100)
    backwards = dict(reversed(SHARES.items()))
    assert [split_of(one, SHARES, 7) for one in ids] == [split_of(one, backwards, 7) for one in ids]


def test_a_share_of_one_takes_all_and_a_share_of_none_takes_nothing() -> None:
    ids = [f"i{number}" for number in range(2000)]
    assert {split_of(one, {"a": 0, "b": 1, "z": 0}, 0) for one in ids} == {"b"}
    thirds = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}  # they add up to a little less than 1
    assert {split_of(one, thirds, 0) for one in ids} == {"a", "b", "c"}


def test_no_group_is_torn_and_a_grown_source_moves_no_image(tmp_path: Path) -> None:
    def items(count: int) -> list[dict[str, object]]:  # a frame of each video in turn
        return [{"id": f"v{number % 40:02d}/{number:04d}.png", "group": f"v{number % 40:02d}"} for number in range(count)]

    source, data = tmp_path / "source", tmp_path / "data"
    write_list(source, items(400))
    world.run_ingest(source, data, format=LISTED, splits=SHARES)
    before = splits_of(data)
    by_group = defaultdict(set)
    for image_id, split in before.items():
        by_group[image_id[:3]].add(split)
    assert {len(splits) for splits in by_group.values()} == {1}
    assert set(before.values()) == {"train", "val", "test"}
    write_list(source, [*items(1000), *({"id": f"new{number}.png"} for number in range(30))])
    grown = world.run_ingest(source, data, format=LISTED, splits=SHARES)
    after = splits_of(data)
    assert before.items() <= after.items()
    assert len(after) == 1030
    assert grown.details["new"] == 630
    assert "changed" not in grown.details
    for record in open_snapshot(str(data)).shards():
        assert record.path.startswith(f"shards/{record.split}/")


def test_splits_that_the_source_gives_stay_unless_resplit_is_asked_for(tmp_path: Path) -> None:
    write_list(tmp_path, [{"id": f"{number}.png", "split": "test" if number < 50 else ""} for number in range(100)])
    world.run_ingest(tmp_path, tmp_path / "kept", format=LISTED, splits={"train": 0.5, "val": 0.5})
    kept = Counter(splits_of(tmp_path / "kept").values())
    assert kept["test"] == 50
    assert kept["train"] + kept["val"] == 50
    world.run_ingest(tmp_path, tmp_path / "all", format=LISTED, splits={"train": 0.5, "val": 0.5}, resplit=True)
    assert set(splits_of(tmp_path / "all").values()) == {"train", "val"}


def test_a_group_of_which_only_a_part_has_a_split_is_refused_with_what_to_do() -> None:
    items = [SourceItem(f"{n}", f"{n}", 1, "1", "train" if n == 1 else "", "patient-7") for n in range(3)]
    with pytest.raises(InputError, match=r"group 'patient-7' a split and others .* none.*resplit=true"):
        list(with_splits(items, SHARES, 0, all_of_them=False))
    assert len({item.split for item in with_splits(items, SHARES, 0, all_of_them=True)}) == 1


def test_other_shares_are_another_recipe_and_shares_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    write_list(tmp_path, [{"id": f"{number}.png"} for number in range(20)])
    world.run_ingest(tmp_path, tmp_path / "data", format=LISTED, splits=SHARES)
    with pytest.raises(RecipeMismatch, match=r"config\.split_seed: 0 -> 1"):
        world.run_ingest(tmp_path, tmp_path / "data", format=LISTED, splits=SHARES, split_seed=1)
    base = {"source": "a", "format": "folder", "output": "b"}
    with pytest.raises(ConfigError, match=r"splits: .* add up to 0\.9; needed: 1"):
        validate(IngestConfig, {**base, "splits": {"train": 0.8, "val": 0.1}})
    with pytest.raises(ConfigError, match="resplit needs splits"):
        validate(IngestConfig, {**base, "resplit": True})
