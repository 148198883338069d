"""Compaction moves rows and changes none; what others do meanwhile is neither lost nor undone; derived stages follow without computing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from segtasks.cli.entry import run as segtasks
from segtasks.engines import open_engine
from segtasks.errors import ConfigError, IncompleteError, InputError
from segtasks.shards import open_snapshot, verify
from segtasks.shards.schema import schema_named
from segtasks.shards.snapshot import snapshot_numbers
from segtasks.shards.sweep import sweep
from segtasks.stages import _run, infer, preprocess
from segtasks.stages import compact as module
from segtasks.stages.compact import compact
from segtasks.stages.config import CompactConfig, IngestConfig
from segtasks.stages.ingest import ingest
from segtasks.stages.progress import silent
from segtasks.stages.result import StageResult
from segtasks.storage import open_store
from tests.stages import world
from tests.stages.listed import write_list

LISTED = "tests.stages.listed"
Items = list[dict[str, object]]


def run_compact(url: Path | str, progress: Callable[[dict[str, Any]], None] = silent, **settings: Any) -> StageResult:
    config = CompactConfig.model_validate({"output": str(url), "engine": world.inline, **settings})
    return compact(config, open_engine(world.inline), progress)


def run_listed(source: Path, output: Path, progress: Callable[[dict[str, Any]], None] = silent, **settings: Any) -> StageResult:
    base = {"source": str(source), "output": str(output), "format": LISTED, "engine": world.inline, "deleted": "drop", "max_deleted": 1.0}
    return ingest(IngestConfig.model_validate({**base, **settings}), open_engine(world.inline), progress)


def content(ref: Path | str) -> dict[str, Any]:
    """Every column of every live row, by id."""
    snapshot = open_snapshot(str(ref))
    rows = snapshot.read_all(schema_named(snapshot.file.rows).names, include_quarantined=True).to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row for row in rows}


def shards_of(url: Path) -> set[str]:
    return {record.path for record in open_snapshot(str(url)).shards()}


def items(numbers: range, version: str = "1") -> Items:
    return [{"id": f"{number:03d}.png", "split": "val" if number % 5 == 0 else "train", "version": version} for number in numbers]


@pytest.fixture(scope="module")
def grown_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    source = tmp_path_factory.mktemp("grown") / "source"
    for stop in range(10, 101, 10):
        write_list(source, items(range(stop)), ("003.png", "044.png"))
        run_listed(source, source.parent / "data")
    write_list(source, [*items(range(20), "2"), *items(range(30, 100))], ("003.png",))
    run_listed(source, source.parent / "data")
    return source, source.parent / "data"


@pytest.fixture
def grown(grown_once: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A data set that grew by ten images at a time, some of which changed, went, or were refused; and its source."""
    source, data = grown_once
    write_list(source, [*items(range(20), "2"), *items(range(30, 100))], ("003.png",))
    shutil.copytree(data, tmp_path / "data")
    return source, tmp_path / "data"


def test_small_shards_become_few_and_every_row_stays_as_it_was(grown: tuple[Path, Path]) -> None:
    _, data = grown
    before = open_snapshot(str(data))
    rows = content(data)
    result = run_compact(data)
    after = open_snapshot(str(data))
    assert content(data) == rows
    assert after.file.ids == before.file.ids
    sizes = {"shards", "bytes"}
    assert after.counts.model_dump(exclude=sizes) == before.counts.model_dump(exclude=sizes)
    assert (before.counts.quarantined, before.counts.rows) == (2, 90)
    assert result.details["shards_before"] == before.counts.shards == 16
    assert after.counts.shards == 7  # 72 images of train and 18 of val by 16, as a first ingest would cut them
    assert (after.file.source, after.file.changes) == (before.file.source, {"moved": result.details["moved"]})
    assert [row["image_id"] for row in after.quarantined()] == ["003.png", "044.png"]
    for url in (data, f"{data}@{before.number}"):
        assert verify(str(url)).problems == ()
    assert content(f"{data}@{before.number}") == rows


def test_a_second_compaction_finds_nothing_to_do(grown: tuple[Path, Path]) -> None:
    _, data = grown
    done = run_compact(data)
    again = run_compact(data)
    assert (again.already_done, again.snapshot, again.computed_shards) == (True, done.snapshot, 0)
    assert run_listed(*grown).already_done


def test_a_shard_with_many_holes_is_written_again_though_it_is_alone(tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    write_list(source, [{"id": f"{number}.png"} for number in range(100)])
    run_listed(source, data, shard_rows=50)
    write_list(source, [{"id": f"{number}.png"} for number in range(7, 100)])
    run_listed(source, data, shard_rows=50)
    before = shards_of(data)
    assert run_compact(data).computed_shards == 1
    assert len(before - shards_of(data)) == 1
    assert all(not record.deleted_rows for record in open_snapshot(str(data)).shards())
    assert verify(str(data)).problems == ()


def test_the_target_decides_the_size(tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    world.write_images(source, 120)
    world.run_ingest(source, data, shard_bytes=4096)
    before = open_snapshot(str(data)).counts
    assert before.shards > 30
    run_compact(data, target_bytes=3 * before.bytes // before.shards)
    assert before.shards / 4 < open_snapshot(str(data)).counts.shards < before.shards / 2


def test_a_group_that_was_in_one_shard_stays_in_one(tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    for stop in range(5, 60, 5):
        write_list(source, [{"id": f"v{n // 5:02d}/{n % 5}.png", "group": f"v{n // 5:02d}"} for n in range(stop)])
        run_listed(source, data)
    run_compact(data)
    snapshot = open_snapshot(str(data))
    groups = [set(snapshot.read(record, ["group_id"])["group_id"].to_pylist()) for record in snapshot.shards()]
    assert len(groups) < 11
    assert sum(map(len, groups)) == 11


# --- what derived stages do


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Images that preprocess or infer computes."""
    found: set[str] = set()

    def watch(worker: type, method: str) -> None:
        original = getattr(worker, method)

        def watched(self: Any, row: dict[str, Any]) -> Any:
            found.add(row["image_id"])
            return original(self, row)

        monkeypatch.setattr(worker, method, watched)

    watch(preprocess._Worker, "_rows")
    watch(infer._Worker, "_decode")
    return found


@pytest.mark.slow
def test_derived_stages_follow_a_compaction_by_copying_and_compute_only_what_also_changed(
    tmp_path: Path, model: Path, computed: set[str]
) -> None:
    source, data, small, out, scores = (tmp_path / name for name in ("source", "data", "small", "out", "scores"))

    def follow() -> None:
        world.run_preprocess(data, small, resize={"height": 16, "width": 16})
        world.run_infer(small, model, out)
        world.run_evaluate(out, small, scores)

    for start in range(0, 32, 4):
        world.write_images(source, 4, start=start)
        world.run_ingest(source, data)
    follow()
    world.write_images(source, 3, start=90)  # the stages did not see these before the compaction
    for folder in ("images", "masks"):
        shutil.copyfile(source / folder / "train/i0091.png", source / folder / "train/i0007.png")
    world.run_ingest(source, data)
    run_compact(data)
    assert len(shards_of(data)) == 3
    computed.clear()
    follow()
    assert computed == {"images/train/i0007.png", *(f"images/train/i{number:04d}.png" for number in (90, 91, 92))}
    assert [len(shards_of(url)) for url in (small, out, scores)] == [3, 3, 3]
    for url in (data, small, out, scores):
        assert verify(str(url)).problems == ()

    fresh = [tmp_path / f"fresh-{name}" for name in ("data", "small", "out", "scores")]
    world.run_ingest(source, fresh[0])
    world.run_preprocess(fresh[0], fresh[1], resize={"height": 16, "width": 16})
    world.run_infer(fresh[1], model, fresh[2])
    world.run_evaluate(fresh[2], fresh[1], fresh[3])
    for one, other in zip((data, small, out, scores), fresh, strict=True):
        assert content(one) == content(other)
    assert open_snapshot(str(scores)).file.summary == open_snapshot(str(fresh[3])).file.summary
    computed.clear()
    follow()
    assert computed == set()


def test_where_the_old_shards_are_gone_rows_are_computed_again_and_right(tmp_path: Path, model: Path, computed: set[str]) -> None:
    source, data, out = (tmp_path / name for name in ("source", "data", "out"))
    for start in range(0, 16, 4):
        world.write_images(source, 4, start=start)
        world.run_ingest(source, data)
    world.run_infer(data, model, out)
    before = content(out)
    old = shards_of(data)
    run_compact(data)
    for path in old - shards_of(data):
        (data / path).unlink()
    computed.clear()
    world.run_infer(data, model, out)
    assert len(computed) == 16
    assert content(out) == before


def test_predictions_that_lag_behind_a_compaction_are_told_to_be_made_again(tmp_path: Path, model: Path) -> None:
    source, data, out = (tmp_path / name for name in ("source", "data", "out"))
    for start in (0, 4):
        world.write_images(source, 4, start=start)
        world.run_ingest(source, data)
    world.run_infer(data, model, out)
    run_compact(data)
    with pytest.raises(ConfigError, match=r"run segtasks infer again.*data@2"):
        world.run_evaluate(out, data, tmp_path / "scores")
    world.run_infer(data, model, out)
    assert world.run_evaluate(out, data, tmp_path / "scores").counts["done"] == 8


def test_a_derived_set_is_not_compacted_and_told_how_it_follows(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 8)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    world.run_preprocess(tmp_path / "data", tmp_path / "small")
    with pytest.raises(InputError, match=r"segtasks preprocess, and its shards follow .* copies its rows"):
        run_compact(tmp_path / "small")


# --- others at work on the same output


class Stopped(Exception):
    pass


def stop_after(shards: int) -> Callable[[dict[str, Any]], None]:
    def progress(event: dict[str, Any]) -> None:
        if event["event"] == "shard" and event["done"] == shards:
            raise Stopped

    return progress


def later(source: Path) -> None:
    """The source changes: rows go from shards that a compaction merges, others come."""
    write_list(source, [*items(range(5, 20), "2"), *items(range(30, 60), "3"), *items(range(60, 120))])


def require_fresh(source: Path, data: Path, tmp_path: Path) -> None:
    run_listed(source, tmp_path / "fresh")
    assert content(data) == content(tmp_path / "fresh")
    assert verify(str(data)).problems == ()


def test_a_delta_that_is_published_while_a_compaction_plans_is_seen_and_the_compaction_planned_again(
    grown: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, data = grown
    plans: list[int] = []
    propose = module.propose_compaction

    def interrupted(snapshot: Any, *arguments: Any) -> Any:
        proposal = propose(snapshot, *arguments)
        plans.append(snapshot.number)
        if len(plans) == 1:
            later(source)
            run_listed(source, data)
        return proposal

    monkeypatch.setattr(module, "propose_compaction", interrupted)
    first = open_snapshot(str(data)).number
    result = run_compact(data)
    assert plans == [first, first + 1]
    assert (result.snapshot, open_snapshot(str(data)).number) == (first + 2, first + 2)
    require_fresh(source, data, tmp_path)


def test_a_compaction_that_is_published_while_a_delta_plans_is_seen_and_the_delta_planned_again(
    grown: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, data = grown
    claim, first = _run.claim_plan, open_snapshot(str(data)).number
    compacted: list[int | None] = []

    def late(store: Any, plan: Any) -> Any:
        if not compacted and plan.kind == "":
            compacted.append(None)
            compacted[0] = run_compact(data).snapshot
        return claim(store, plan)

    monkeypatch.setattr(_run, "claim_plan", late)
    later(source)
    result = run_listed(source, data)
    assert (compacted, result.snapshot) == ([first + 1], first + 2)
    require_fresh(source, data, tmp_path)


def test_a_compaction_that_was_stopped_is_finished_by_the_next_ingest_which_then_does_its_own_work(
    grown: tuple[Path, Path], tmp_path: Path
) -> None:
    source, data = grown
    first = open_snapshot(str(data)).number
    with pytest.raises(Stopped):
        run_compact(data, stop_after(2))
    assert open_snapshot(str(data)).number == first
    assert sweep(str(data), age_seconds=0).removed == ()
    later(source)
    result = run_listed(source, data, max_quarantined=0.01)  # the refused rows that are moved are not refused anew
    assert (result.snapshot, snapshot_numbers(open_store(str(data)))[-2:]) == (first + 2, [first + 1, first + 2])
    require_fresh(source, data, tmp_path)


def test_a_compaction_that_was_stopped_goes_on_where_it_was(grown: tuple[Path, Path]) -> None:
    _, data = grown
    rows = content(data)
    with pytest.raises(Stopped):
        run_compact(data, stop_after(2))
    result = run_compact(data)
    assert result.computed_shards == 4 - 2
    assert content(data) == rows
    assert verify(str(data)).problems == ()


def test_while_an_ingest_is_not_finished_a_compaction_does_nothing_and_says_so(grown: tuple[Path, Path], tmp_path: Path) -> None:
    source, data = grown
    later(source)
    with pytest.raises(Stopped):
        run_listed(source, data, stop_after(1))
    before = open_snapshot(str(data)).number
    for settings in ({}, {"dry_run": True}):
        with pytest.raises(IncompleteError, match="let segtasks ingest finish, then run segtasks compact again") as caught:
            run_compact(data, **settings)
        assert caught.value.exit_code == 3
    assert open_snapshot(str(data)).number == before
    run_listed(source, data)
    run_compact(data)
    require_fresh(source, data, tmp_path)


# --- the command


def test_the_command_merges_says_what_it_did_and_takes_the_usual_options(
    grown: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    _, data = grown
    command = ["compact", str(data), "--engine", "local", "--workers", "0"]
    number = open_snapshot(str(data)).number
    assert segtasks([*command, "--dry-run", "--json"]) == 0
    planned = json.loads(capfd.readouterr().out)
    assert planned["dry_run"]
    assert (planned["details"]["shards_before"], planned["details"]["shards"]) == (16, planned["details"]["shards_to_make"])
    assert open_snapshot(str(data)).number == number
    assert segtasks([*command, "--target-bytes", str(1 << 20), "--json"]) == 0
    done = json.loads(capfd.readouterr().out)
    assert (done["snapshot"], done["counts"]["rows"], done["counts"]["shards"]) == (number + 1, 90, 7)
    assert segtasks(command) == 0
    assert "already done" in capfd.readouterr().out
    assert segtasks([*command, "--target-bytes", "5"]) == 2
    assert segtasks(["compact", f"{data}@2"]) == 2
    assert "names a snapshot" in capfd.readouterr().err
    assert segtasks(["compact", str(data.parent / "nothing")]) == 2


def test_merged_files_open_elsewhere_as_any_shard(grown: tuple[Path, Path]) -> None:
    _, data = grown
    run_compact(data)
    for path in shards_of(data):
        file = pq.ParquetFile(data / path)
        assert file.schema_arrow.equals(schema_named("samples/1"), check_metadata=False)
        assert b"huggingface" in (file.schema_arrow.metadata or {})
