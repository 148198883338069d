"""The format: recipe, plan, shard, snapshot, and the proof from the bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segtasks.errors import ConfigError, CorruptError, DecodeError, InputError, LabelError, RecipeMismatch
from segtasks.shards import ShardRecord, Snapshot, open_snapshot, require_intact, verify
from segtasks.shards.digest import add_digests, digest_ids, subtract_digest
from segtasks.shards.plan import Plan, Unit, claim_plan, latest_plan, read_units, totals, unit_key, write_units
from segtasks.shards.recipe import Recipe, claim_recipe
from segtasks.shards.records import read_record
from segtasks.shards.schema import to_meta
from segtasks.shards.select import select
from segtasks.shards.snapshot import publish
from segtasks.shards.writer import ShardWriter, commit, ok, quarantined
from segtasks.spec import DatasetSpec
from segtasks.storage import Store, open_store


def recipe(**config: object) -> Recipe:
    return Recipe(stage="ingest", version=1, rows="samples/1", config=config, spec=DatasetSpec(name="tiny"))


def unit(of: Recipe, ids: list[str], split: str = "train") -> Unit:
    return Unit(key=unit_key(of.id, ids), split=split, inputs=len(ids), bytes=1, ids=digest_ids(ids))


def plan(store: Store, of: Recipe, units: list[Unit], number: int = 1) -> Plan:
    inputs, ids = totals(units)
    lists = write_units(store, units)
    return claim_plan(
        store,
        Plan(
            number=number, recipe=of.id, config={}, units=lists, unit_count=len(units), inputs=inputs, ids=ids, created_at="", segtasks="0"
        ),
    )


def make_shard(
    store: Store, of: Recipe, ids: list[str], *, split: str = "train", bad: frozenset[str] = frozenset(), meta: str = "a"
) -> ShardRecord:
    writer = ShardWriter("samples/1", of.id, 1, unit(of, ids, split))
    for item in ids:
        row = {"image_id": item, "split": split, "meta": [{"key": "camera", "value": meta}]}
        writer.add(quarantined(row, DecodeError("broken")) if item in bad else ok({**row, "image": {"bytes": item.encode(), "path": item}}))
    return commit(store, *writer.finish())


def published(
    store: Store, records: list[ShardRecord], of: Recipe, number: int = 1, deletions: dict[str, list[int]] | None = None
) -> Snapshot:
    units = [Unit(key=r.unit, split=r.split, inputs=r.inputs, bytes=r.bytes, ids=r.ids) for r in records]
    plan(store, of, units, number)
    return publish(store, recipe=of, plan=number, input=None, source="s", records=records, deletions=deletions)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_the_digest_is_order_independent_adds_up_and_sees_what_comes_twice() -> None:
    assert digest_ids(["a", "b", "c"]) == digest_ids(["c", "a", "b"])
    assert add_digests([digest_ids(["a"]), digest_ids(["b", "c"])]) == digest_ids(["a", "b", "c"])
    assert subtract_digest(digest_ids(["a", "b"]), digest_ids(["b"])) == digest_ids(["a"])
    assert digest_ids(["a", "b", "b"]) != digest_ids(["a"])
    assert len(digest_ids([])) == 32


def test_another_recipe_is_refused_naming_each_difference(store: Store) -> None:
    claim_recipe(store, recipe(size=1, name="x"))
    claim_recipe(store, recipe(size=1, name="x"))
    with pytest.raises(RecipeMismatch) as caught:
        claim_recipe(store, recipe(size=2, name="x", extra=None, more=[1]))
    assert caught.value.differences == ("config.more: null -> [1]", "config.size: 1 -> 2")


def test_the_second_driver_joins_the_plan_that_has_the_number(store: Store) -> None:
    of = recipe()
    first = plan(store, of, [unit(of, ["a"])])
    second = plan(store, of, [unit(of, ["a", "b"])])
    assert second == first
    assert latest_plan(store) == first
    assert [found.inputs for found in read_units(store, second)] == [1]


def test_a_late_duplicate_returns_the_winners_record(store: Store) -> None:
    of = recipe()
    won = make_shard(store, of, ["a", "b"])
    late = make_shard(store, of, ["a", "b"], bad=frozenset({"b"}))
    assert late == won
    assert late.quarantined == 0


def test_a_record_is_read_back_from_the_footer_alone(store: Store) -> None:
    record = make_shard(store, recipe(), ["a", "b"], bad=frozenset({"a"}))
    assert read_record(store, record.path, record.bytes) == record
    assert (record.rows, record.done, record.quarantined, record.errors) == (2, 1, 1, ("DecodeError",))


def test_a_writer_that_loses_or_invents_an_id_refuses_to_finish() -> None:
    of = recipe()
    writer = ShardWriter("samples/1", of.id, 1, unit(of, ["a", "b"]))
    writer.add(ok({"image_id": "a"}))
    with pytest.raises(RuntimeError, match="1 ids written, 2 came in"):
        writer.finish()


def test_publishing_twice_gives_the_same_snapshot_and_the_next_plan_the_next_number(store: Store) -> None:
    of = recipe()
    claim_recipe(store, of)
    first = make_shard(store, of, ["a", "b"], bad=frozenset({"b"}))
    one = published(store, [first], of)
    again = publish(store, recipe=of, plan=1, input=None, source="s", records=[first])
    assert again.file == one.file
    two = published(store, [make_shard(store, of, ["c"], split="val")], of, number=2)
    assert (two.number, two.file.parent) == (2, 1)
    assert two.file.lists[:1] == one.file.lists
    counts = two.counts.model_dump()
    assert counts | {"bytes": 0} == {"rows": 3, "done": 2, "quarantined": 1, "empty": 0, "shards": 2, "bytes": 0, "inputs": 3}
    assert two.file.ids == digest_ids(["a", "b", "c"])
    assert open_snapshot(f"{store.url}@1").counts.rows == 2
    assert verify(store.url).problems == ()


def test_deleted_and_quarantined_rows_are_not_read_unless_asked(store: Store) -> None:
    of = recipe()
    claim_recipe(store, of)
    first = make_shard(store, of, ["a", "b", "c"], bad=frozenset({"b"}))
    published(store, [first], of)
    snapshot = published(store, [make_shard(store, of, ["d"])], of, number=2, deletions={first.path: [0]})
    record = snapshot.records[first.path]
    assert record.deleted_rows == (0,)
    assert snapshot.read(record, ["image_id"])["image_id"].to_pylist() == ["c"]
    assert snapshot.read(record, ["image_id"], include_quarantined=True)["image_id"].to_pylist() == ["b", "c"]
    assert snapshot.read_all(["image_id"])["image_id"].to_pylist() == ["c", "d"]
    assert (snapshot.counts.rows, snapshot.file.ids) == (3, digest_ids(["b", "c", "d"]))
    assert verify(snapshot.ref).problems == ()


def test_rows_are_chosen_by_split_meta_and_limit(store: Store) -> None:
    of = recipe()
    claim_recipe(store, of)
    records = [make_shard(store, of, ["a", "b"]), make_shard(store, of, ["c", "d"], split="val", meta="b")]
    snapshot = published(store, records, of)
    assert [chosen.ids for chosen in select(snapshot)] == [("a", "b"), ("c", "d")]
    assert [chosen.ids for chosen in select(snapshot, {"split": "val"})] == [("c", "d")]
    assert [chosen.ids for chosen in select(snapshot, {"camera": ["b", "z"]})] == [("c", "d")]
    assert [(chosen.ids, chosen.whole) for chosen in select(snapshot, limit=3)] == [(("a", "b"), True), (("c",), False)]
    with pytest.raises(InputError, match="has no image with"):
        list(select(snapshot, {"camera": "q"}))


def test_verify_finds_a_flipped_byte_a_missing_shard_and_a_forged_list(store: Store) -> None:
    of = recipe()
    claim_recipe(store, of)
    records = [make_shard(store, of, [f"{split}{n}" for n in range(3)], split=split) for split in ("train", "val", "test")]
    published(store, records, of)
    files = [Path(store.url, record.path) for record in records]
    data = bytearray(files[0].read_bytes())
    data[40] ^= 1
    files[0].write_bytes(bytes(data))
    files[1].unlink()
    problems = "\n".join(verify(store.url).problems)
    assert "does not hash" in problems
    assert "is missing" in problems
    assert records[2].path not in problems
    listing = next(Path(store.url, "snapshots/lists").iterdir())
    table = pq.read_table(listing)
    pq.write_table(table.slice(0, 2), listing)
    with pytest.raises(CorruptError, match="does not hash to its name"):
        require_intact(verify(store.url))


def test_pictures_that_are_compressed_already_are_stored_as_they_are(tmp_path: Path) -> None:
    """A photograph as JPEG does not shrink any more; the same bytes as BMP (all alike here) do."""
    codecs = {}
    for media_type in ("image/jpeg", "image/bmp"):
        writer = ShardWriter("samples/1", "r", 1, unit(recipe(), ["a"]))
        writer.add(ok({"image_id": "a", "image": {"bytes": bytes(100_000), "path": "a"}, "media_type": media_type}))
        data, record = writer.finish()
        parquet = pq.ParquetFile(pa.BufferReader(data))
        assert parquet.read().num_rows == record.rows == 1
        group = parquet.metadata.row_group(0)
        codecs[media_type] = {group.column(at).path_in_schema: group.column(at).compression for at in range(group.num_columns)}
    assert codecs["image/jpeg"]["image.bytes"] == codecs["image/jpeg"]["mask.bytes"] == "UNCOMPRESSED"
    assert set(codecs["image/bmp"].values()) == {"ZSTD"}
    assert {path for path, codec in codecs["image/jpeg"].items() if codec != "ZSTD"} == {"image.bytes", "mask.bytes"}


def test_a_record_whose_file_was_cut_short_is_corrupt(store: Store) -> None:
    record = make_shard(store, recipe(), ["a"])
    file = Path(store.url, record.path)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CorruptError, match="cut short"):
        read_record(store, record.path, file.stat().st_size)


def test_what_is_not_there_is_said_clearly(store: Store) -> None:
    with pytest.raises(InputError, match=r"no shard set at .* needed: the output of segtasks ingest"):
        open_snapshot(store.url)
    claim_recipe(store, recipe())
    with pytest.raises(InputError, match="no published snapshot"):
        open_snapshot(store.url)
    of = recipe()
    snapshot = published(store, [make_shard(store, of, ["a"])], of)
    with pytest.raises(InputError, match="has no snapshot 7; it has 1 to 1"):
        open_snapshot(f"{store.url}@7")
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        snapshot.shards(["trian"])
    with pytest.raises(ConfigError, match="Did you mean 'image_id'"):
        snapshot.read(snapshot.shards()[0], ["imageid"])


def test_a_unit_survives_json_and_names_its_file_safely() -> None:
    one = unit(recipe(), ["a"], split="../evil/x")
    assert Unit.from_json(one.as_json()) == one
    assert one.path == f"shards/_evil_x/part-{one.key}.parquet"
    assert replace(one, split="").path.startswith("shards/all/")


def test_half_a_character_of_a_sources_json_is_stored_as_a_question_mark(tmp_path: Path) -> None:
    store, of = open_store(str(tmp_path)), recipe()
    writer = ShardWriter("samples/1", of.id, 1, unit(of, ["a", "b"]))
    writer.add(ok({"image_id": "a", "split": "train", "meta": to_meta({"flag_\ud800": "Grün \udfff"})}))
    writer.add(quarantined({"image_id": "b", "split": "train"}, LabelError("the label is \ud800")))
    commit(store, *writer.finish())
    (file,) = (tmp_path / "shards").rglob("*.parquet")
    first, second = pq.read_table(file, columns=["meta", "error"]).to_pylist()
    assert first["meta"] == [{"key": "flag_?", "value": "Grün ?"}]
    assert second["error"] == "the label is ?"
