"""A second run reads what is new, changed or tried again, drops what its policy drops, and ends where a first run would have ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from segtasks.cli.entry import run as segtasks
from segtasks.cli.look import split_table
from segtasks.engines import open_engine
from segtasks.errors import InputError, QuarantineLimit, SourceShrank
from segtasks.shards import open_snapshot, verify
from segtasks.shards.plan import latest_plan
from segtasks.shards.schema import schema_named
from segtasks.shards.snapshot import snapshot_numbers
from segtasks.stages import infer, preprocess
from segtasks.stages.config import IngestConfig
from segtasks.stages.ingest import ingest
from segtasks.stages.progress import silent
from segtasks.storage import open_store
from tests.stages import poison, world
from tests.stages.listed import write_list

LISTED = "tests.stages.listed"


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The images that were read since the last call."""
    log = tmp_path / "reads.txt"
    monkeypatch.setenv(poison.LOG, str(log))

    def taken() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return sorted(line.partition(" ")[2] for line in lines)

    return taken


def run_ingest_with(progress: Callable[[dict[str, Any]], None], source: Path, output: Path, **settings: Any) -> None:
    config = IngestConfig.model_validate({"source": str(source), "output": str(output), "engine": world.inline, **settings})
    ingest(config, open_engine(world.inline), progress)


def shards_of(url: Path) -> set[str]:
    return {entry.path for entry in open_store(str(url)).list("shards")}


def statuses(url: Path) -> dict[str, str]:
    return {image_id: status for image_id, (status, _, _) in world.content(url).items()}


def require_sound(*urls: Path) -> None:
    for url in urls:
        assert verify(str(url)).problems == ()


def content(url: Path) -> dict[str, Any]:
    """Every column of every live row, by id."""
    snapshot = open_snapshot(str(url))
    rows = snapshot.read_all(schema_named(snapshot.file.rows).names, include_quarantined=True).to_pylist()
    return {row["image_id"]: row for row in rows}


# --- the whole chain


class Chain:
    """ingest -> preprocess -> infer -> evaluate under one folder, and the images that each computes."""

    def __init__(self, root: Path, model: Path) -> None:
        self.data, self.small, self.predictions, self.scores = (root / name for name in ("data", "small", "predictions", "scores"))
        self._model = model

    def run(self, source: Path, **settings: Any) -> None:
        world.run_ingest(source, self.data, format="tests.stages.poison", shard_rows=8, **settings)
        self.follow()

    def follow(self) -> None:
        world.run_preprocess(self.data, self.small, resize={"height": 16, "width": 16})
        world.run_infer(self.small, self._model, self.predictions)
        world.run_evaluate(self.predictions, self.small, self.scores)

    @property
    def urls(self) -> list[Path]:
        return [self.data, self.small, self.predictions, self.scores]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"preprocess": set(), "infer": set()}

    def watch(worker: type, method: str, name: str) -> None:
        original = getattr(worker, method)

        def watched(self: Any, row: dict[str, Any], *more: Any) -> Any:
            found[name].add(row["image_id"])
            return original(self, row, *more)

        monkeypatch.setattr(worker, method, watched)

    watch(preprocess._Worker, "_rows", "preprocess")
    watch(infer._Worker, "_decode", "infer")
    return found


def change(source: Path, number: int) -> None:
    """Another picture of the same name."""
    for folder in ("images", "masks"):
        shutil.copyfile(source / folder / "train" / "other.png", source / folder / "train" / f"i{number:04d}.png")


@pytest.mark.slow
def test_a_chain_follows_added_changed_removed_and_mended_images_to_where_a_fresh_run_ends(
    tmp_path: Path, model: Path, computed: dict[str, set[str]], reads: Callable[[], list[str]]
) -> None:
    source, chain = tmp_path / "source", Chain(tmp_path / "grown", model)
    world.write_images(source, 40)
    world.write_images(source, 10, split="val", start=40)
    (source / "images/train/i0003.png").write_bytes(b"cut short")
    chain.run(source, deleted="drop")
    assert statuses(chain.data)["images/train/i0003.png"] == "quarantined"
    reads()
    for done in computed.values():
        done.clear()

    world.write_images(tmp_path / "others", 3, start=900)
    for folder in ("images", "masks"):
        (tmp_path / "others" / folder / "train/i0900.png").rename(source / folder / "train/other.png")
    change(source, 5)
    change(source, 30)
    world.write_images(tmp_path / "mended", 4)
    shutil.copyfile(tmp_path / "mended/images/train/i0003.png", source / "images/train/i0003.png")
    world.write_images(source, 6, start=100)
    gone = [6, *range(8, 16), 39]
    for number in gone:
        (source / f"images/train/i{number:04d}.png").unlink()
        (source / f"masks/train/i{number:04d}.png").unlink()
    fresh = {"images/train/other.png", *(f"images/train/i{number:04d}.png" for number in (3, 5, 30, *range(100, 106)))}
    before = [shards_of(url) for url in chain.urls]
    chain.run(source, deleted="drop")
    assert set(reads()) == fresh
    assert computed == {"preprocess": fresh, "infer": fresh}
    assert all(old <= shards_of(url) for old, url in zip(before, chain.urls, strict=True))
    require_sound(*chain.urls)

    again = Chain(tmp_path / "fresh", model)
    again.run(source)
    for one, other in zip(chain.urls, again.urls, strict=True):
        assert content(one) == content(other)
        assert open_snapshot(str(one)).file.ids == open_snapshot(str(other)).file.ids
    counts, expected = (open_snapshot(str(url)).counts for url in (chain.data, again.data))
    assert (counts.rows, counts.done, counts.quarantined) == (expected.rows, expected.done, expected.quarantined) == (47, 47, 0)
    assert open_snapshot(str(chain.data)).file.errors == {}
    one, other = (open_snapshot(str(url)).file.summary for url in (chain.scores, again.scores))
    assert one == other
    file = open_snapshot(str(chain.data)).file
    assert file.changes == {"new": 7, "changed": 3, "dropped": 10}

    for done in computed.values():
        done.clear()
    reads()
    chain.run(source, deleted="drop")  # and nothing is left to do
    assert (reads(), computed) == ([], {"preprocess": set(), "infer": set()})
    assert [snapshot_numbers(open_store(str(url))) for url in chain.urls] == [[1, 2]] * 4


@pytest.mark.slow
def test_an_image_that_is_dropped_and_comes_back_unchanged_is_there_again_in_every_stage(tmp_path: Path, model: Path) -> None:
    source, chain = tmp_path / "source", Chain(tmp_path / "out", model)
    world.write_images(source, 10)
    chain.run(source, deleted="drop", max_deleted=1.0)
    world.write_images(source, 2, start=50)
    chain.run(source, deleted="drop", max_deleted=1.0)
    whole = world.content(chain.predictions)
    aside = tmp_path / "aside"
    aside.mkdir()
    paths = [f"{folder}/train/i{number:04d}.png" for folder in ("images", "masks") for number in (50, 51)]

    def move(chosen: list[str], to: Path, back: Path) -> None:
        for path in chosen:
            (back / path).rename(to / path.replace("/", "_")) if back == source else (back / path.replace("/", "_")).rename(to / path)

    for followed in (True, False):  # the stages follow each step, or only the last one
        for chosen in (paths[::2], paths[1::2]):
            move(chosen, aside, source)
            world.run_ingest(source, chain.data, format="tests.stages.poison", shard_rows=8, deleted="drop", max_deleted=1.0)
            if followed or chosen == paths[::2]:
                chain.follow()
        assert len(world.content(chain.data)) == 10
        move(paths, source, aside)
        chain.run(source, deleted="drop", max_deleted=1.0)
        assert len(world.content(chain.data)) == 12
        assert world.content(chain.predictions) == whole
        require_sound(*chain.urls)


def test_a_limit_is_filled_up_again_where_an_image_of_the_first_ones_is_dropped(tmp_path: Path, model: Path) -> None:
    source, data, out = tmp_path / "source", tmp_path / "data", tmp_path / "out"
    world.write_images(source, 20)
    world.run_ingest(source, data, shard_rows=20)
    world.run_infer(data, model, out, limit=10)
    for _ in range(2):
        first = open_snapshot(str(data)).read_all(["image_id"])["image_id"].to_pylist()[:10]
        assert set(world.content(out)) == set(first)
        for folder in ("images", "masks"):
            (source / first[4].replace("images", folder)).unlink()
        world.run_ingest(source, data, shard_rows=20, deleted="drop")
        world.run_infer(data, model, out, limit=10)
        require_sound(out)
    assert set(world.content(out)) == set(open_snapshot(str(data)).read_all(["image_id"])["image_id"].to_pylist()[:10])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_ten_thousand_images_only_the_new_and_changed_ones_are_read_and_only_their_shards_written(
    tmp_path: Path, reads: Callable[[], list[str]]
) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    (source / "images").mkdir(parents=True)
    for number in range(10_000):
        Image.new("RGB", (4, 4), (number % 251, number % 241, number // 256)).save(source / f"images/{number:05d}.png")
    first = world.run_ingest(source, data, format="tests.stages.poison", shard_rows=500)
    assert len(reads()) == first.counts["rows"] == 10_000
    before = shards_of(data)
    for number in range(10_000, 10_100):
        Image.new("RGB", (4, 4), (number % 251, 0, 0)).save(source / f"images/{number:05d}.png")
    for number in range(0, 10_000, 200):
        Image.new("RGB", (5, 4)).save(source / f"images/{number:05d}.png")
    for number in range(101, 10_000, 500):
        (source / f"images/{number:05d}.png").unlink()
    second = world.run_ingest(source, data, format="tests.stages.poison", shard_rows=500, deleted="drop")
    assert len(reads()) == 150
    made = shards_of(data) - before
    assert second.computed_shards == len(made)
    records = [open_snapshot(str(data)).records[path] for path in made]
    assert sum(record.rows for record in records) == 150
    assert (second.snapshot, second.counts["rows"], second.details["new"]) == (2, 10_080, 100)
    assert (second.details["changed"], second.details["dropped"]) == (50, 20)
    require_sound(data)


# --- policy


def shrunk(tmp_path: Path, left: int) -> tuple[Path, Path]:
    """An output of ten images whose source has `left` of them now."""
    source, data = tmp_path / "source", tmp_path / "data"
    items: list[dict[str, object]] = [{"id": f"{number}.png"} for number in range(10)]
    write_list(source, items)
    world.run_ingest(source, data, format=LISTED)
    write_list(source, items[:left])
    return source, data


def test_rows_of_images_that_are_gone_stay_unless_told_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, data = shrunk(tmp_path, 7)
    with caplog.at_level("INFO", "segtasks"):
        assert world.run_ingest(source, data, format=LISTED).already_done
    assert "3 of 10 images" in caplog.text
    assert "deleted=drop" in caplog.text
    result = world.run_ingest(source, data, format=LISTED, deleted="drop")
    assert (result.snapshot, result.already_done, result.counts["rows"], result.details["dropped"]) == (2, False, 7, 3)
    assert open_snapshot(f"{data}@1").counts.rows == 10
    assert world.run_ingest(source, data, format=LISTED, deleted="keep").already_done
    require_sound(data)


@pytest.mark.parametrize(
    ("left", "settings", "said"),
    [
        (9, {"deleted": "fail"}, "1 of 10 images .* deleted=fail allows none"),
        (4, {"deleted": "drop"}, r"6 of 10 images .* \(60\.0%\); max_deleted allows 50\.0%.*mounted.*max_deleted=0\.6"),
        (9, {"deleted": "drop", "max_deleted": 0.05}, "max_deleted allows 5.0%"),
    ],
)
def test_too_many_images_gone_stop_the_run_before_anything_is_planned(
    tmp_path: Path, left: int, settings: dict[str, Any], said: str
) -> None:
    source, data = shrunk(tmp_path, left)
    with pytest.raises(SourceShrank, match=said) as caught:
        world.run_ingest(source, data, format=LISTED, **settings)
    assert caught.value.exit_code == 3
    plan = latest_plan(open_store(str(data)))
    assert plan is not None
    assert plan.number == 1
    assert world.run_ingest(source, data, format=LISTED, deleted="drop", max_deleted=1.0).counts["rows"] == left


def test_an_image_that_moves_to_another_split_or_group_is_read_again_though_its_version_is_the_same(tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    write_list(source, [{"id": "a", "split": "train"}, {"id": "b", "split": "train", "group": "x"}, {"id": "c", "split": "train"}])
    world.run_ingest(source, data, format=LISTED)
    write_list(source, [{"id": "a", "split": "val"}, {"id": "b", "split": "train", "group": "y"}, {"id": "c", "split": "train"}])
    assert world.run_ingest(source, data, format=LISTED).details["changed"] == 2
    rows = open_snapshot(str(data)).read_all(["image_id", "split", "group_id"]).to_pylist()
    assert {row["image_id"]: (row["split"], row["group_id"]) for row in rows} == {
        "a": ("val", ""),
        "b": ("train", "y"),
        "c": ("train", ""),
    }


def test_predictions_move_with_their_images_to_another_split(tmp_path: Path, model: Path) -> None:
    source, data, out = (tmp_path / name for name in ("source", "data", "out"))
    for split in ("train", "val"):  # all of a shard moves, and no version changes
        write_list(source, [{"id": one, "split": split} for one in "ab"])
        world.run_ingest(source, data, format=LISTED)
        world.run_infer(data, model, out)
        assert {image_id: row["split"] for image_id, row in content(out).items()} == {"a": split, "b": split}
    require_sound(out)


@pytest.mark.parametrize("there", [[], ["a"]])
def test_an_id_that_is_listed_twice_is_named(tmp_path: Path, there: list[str]) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    if there:
        write_list(source, [{"id": one} for one in there])
        world.run_ingest(source, data, format=LISTED)
    write_list(source, [{"id": "b"}, {"id": "a"}, {"id": "c"}, {"id": "a"}])
    with pytest.raises(InputError, match="lists 'a' twice"):
        world.run_ingest(source, data, format=LISTED)


def test_a_dry_run_says_how_many_images_are_new_changed_and_gone(tmp_path: Path) -> None:
    source, data = shrunk(tmp_path, 8)
    write_list(source, [{"id": f"{number}.png", "version": "2" if number < 3 else "1"} for number in range(2, 14)])
    planned = world.run_ingest(source, data, format=LISTED, dry_run=True, deleted="drop")
    assert {key: planned.details[key] for key in ("new", "changed", "dropped", "inputs")} == {
        "new": 4,
        "changed": 1,
        "dropped": 2,
        "inputs": 5,
    }
    assert snapshot_numbers(open_store(str(data))) == [1]


# --- images that were refused, again


def refusing(tmp_path: Path, refused: tuple[str, ...], count: int = 20) -> tuple[Path, Path]:
    source, data = tmp_path / "source", tmp_path / "data"
    write_list(source, [{"id": f"{number}.png"} for number in range(count)], refused)
    return source, data


def test_refused_images_are_tried_again_when_asked_and_those_that_fail_again_stay_refused(
    tmp_path: Path, reads: Callable[[], list[str]]
) -> None:
    source, data = refusing(tmp_path, ("1.png", "2.png", "3.png"))
    world.run_ingest(source, data, format=LISTED)
    refusing(tmp_path, ("2.png",))
    reads()
    assert world.run_ingest(source, data, format=LISTED).already_done  # nothing of the images themselves changed
    assert reads() == []
    for snapshot, tried in ((2, ["1.png", "2.png", "3.png"]), (3, ["2.png"])):
        result = world.run_ingest(source, data, format=LISTED, retry_quarantined=True)
        assert (result.snapshot, reads(), result.details["retried"]) == (snapshot, tried, len(tried))
        assert (result.counts["rows"], result.counts["done"], result.counts["quarantined"]) == (20, 19, 1)
        assert [row["image_id"] for row in open_snapshot(str(data)).quarantined()] == ["2.png"]
        require_sound(data)
    refusing(tmp_path, ())
    world.run_ingest(source, data, format=LISTED, retry_quarantined=True)
    assert world.run_ingest(source, data, format=LISTED, retry_quarantined=True).already_done
    assert (open_snapshot(str(data)).counts.quarantined, open_snapshot(str(data)).file.errors) == (0, {})
    require_sound(data)


def test_derived_stages_follow_a_retry_and_compute_only_what_came(tmp_path: Path, model: Path, computed: dict[str, set[str]]) -> None:
    source, data = refusing(tmp_path, ("1.png",))
    world.run_ingest(source, data, format=LISTED)
    world.run_infer(data, model, tmp_path / "out")
    refusing(tmp_path, ())
    world.run_ingest(source, data, format=LISTED, retry_quarantined=True)
    computed["infer"].clear()
    world.run_infer(data, model, tmp_path / "out")
    assert computed["infer"] == {"1.png"}
    assert len(world.content(tmp_path / "out")) == 20
    require_sound(tmp_path / "out")


class Stopped(Exception):
    pass


def stop_after(shards: int) -> Callable[[dict[str, Any]], None]:
    def progress(event: dict[str, Any]) -> None:
        if event["event"] == "shard" and event["done"] == shards:
            raise Stopped

    return progress


@pytest.mark.parametrize("flag", [True, False])
def test_a_retry_that_was_stopped_is_finished_by_any_later_run(tmp_path: Path, reads: Callable[[], list[str]], flag: bool) -> None:
    every = tuple(f"{number}.png" for number in range(40))
    source, data = refusing(tmp_path, every, 40)
    settings = {"format": LISTED, "shard_rows": 16}
    world.run_ingest(source, data, **settings)
    refusing(tmp_path, ("7.png",), 40)
    reads()
    with pytest.raises(Stopped):
        run_ingest_with(stop_after(1), source, data, retry_quarantined=True, **settings)
    first = reads()
    assert 0 < len(first) < 40
    result = world.run_ingest(source, data, retry_quarantined=flag, **settings)
    assert sorted([*first, *reads()]) == sorted(every)
    assert (result.snapshot, result.counts["done"], result.counts["quarantined"]) == (2, 39, 1)
    require_sound(data)


def test_a_run_that_asks_for_a_retry_finishes_an_open_plan_first_and_then_tries_again(tmp_path: Path) -> None:
    source, data = refusing(tmp_path, ("1.png",), 40)
    settings = {"format": LISTED, "shard_rows": 16}
    with pytest.raises(Stopped):
        run_ingest_with(stop_after(1), source, data, **settings)
    refusing(tmp_path, (), 40)
    assert "1.png" in ids_so_far(data)
    result = world.run_ingest(source, data, retry_quarantined=True, **settings)
    assert (result.snapshot, result.counts["done"], result.counts["quarantined"]) == (2, 40, 0)
    require_sound(data)


def ids_so_far(url: Path) -> set[str]:
    return {one for path in shards_of(url) for one in pq.read_table(url / path, columns=["image_id"])["image_id"].to_pylist()}


def test_images_that_fail_again_do_not_count_for_max_quarantined_and_new_ones_do(tmp_path: Path) -> None:
    source, data = refusing(tmp_path, ("1.png",))
    world.run_ingest(source, data, format=LISTED, max_quarantined=0.05)
    again = world.run_ingest(source, data, format=LISTED, max_quarantined=0.05, retry_quarantined=True)
    assert (again.counts["quarantined"], again.details["retried"]) == (1, 1)
    refusing(tmp_path, ("1.png", "25.png"), 30)
    with pytest.raises(QuarantineLimit, match=r"1 of 10 images are quarantined \(10\.0%\)"):
        world.run_ingest(source, data, format=LISTED, max_quarantined=0.05, retry_quarantined=True)


def test_the_command_line_takes_the_flag_and_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, data = refusing(tmp_path, ("1.png",))
    command = ["ingest", "--source", str(source), "--format", LISTED, "--output", str(data), "--engine", "local", "--workers", "0"]
    assert segtasks(command) == 0
    refusing(tmp_path, (), 15)
    assert segtasks([*command, "--retry-quarantined", "deleted=fail"]) == 3
    assert "5 of 20 images" in capsys.readouterr().err
    assert segtasks([*command, "--retry-quarantined", "deleted=drop"]) == 0
    said = capsys.readouterr().out
    assert "retried" in said
    assert "dropped" in said
    assert open_snapshot(str(data)).counts.rows == 15


def test_inspect_counts_live_rows_by_split(tmp_path: Path) -> None:
    _, data = shrunk(tmp_path, 7)
    run_ingest_with(silent, tmp_path / "source", data, format=LISTED, deleted="drop")
    assert split_table(open_snapshot(str(data))) == [{"split": "", "done": 7, "quarantined": 0, "shards": 1}]
