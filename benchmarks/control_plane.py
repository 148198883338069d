"""What a shard costs beside its own work: `python benchmarks/control_plane.py [--sizes 1000 10000 100000] [--engines local ray]`.

The real stage runner (claim, plan, map, commit, check, publish) over n units whose worker does next to nothing: it commits one real
Parquet shard of one row (about 4 kB, create-only, synced). The shards, their footers, the listing, the plan's and the
snapshot's lists are what a real run has. Each measure runs in a process of its own, so that its peak memory is its own:

- map: the engine alone over work items, a worker that returns a record and touches no store; against ray.util.ActorPool, Ray Data
  and multiprocessing.Pool over the same items, in turn in the same process; the ratio is the median over rounds.
- stage: everything from an empty folder to the snapshot.
- finished: the same command again: nothing is left to do.
- resume: the same after the snapshot is taken away, which is what a kill just before publishing leaves.
- parts: listing, footers and publishing of that state, each alone.
- latency: resume with a wait on every read of the store, as an object store has.

Memory is the driver's high-water mark (VmHWM), also over what it held before (modules, engine). What a shard takes is the growth from the
smallest to the largest size: modules that are imported on the way and allocators' first pages are 60 MiB of the smallest.
100,000 shards are made on the last of the engines only.
Expected and found: results/control_plane.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtasks.engines import Engine, EngineConfig, open_engine
from segtasks.engines._watch import Limits
from segtasks.shards.digest import digest_ids
from segtasks.shards.journal import Journal
from segtasks.shards.plan import Plan, Unit, latest_plan, read_units, unit_key
from segtasks.shards.recipe import Recipe
from segtasks.shards.records import ShardRecord
from segtasks.shards.snapshot import Snapshot, publish
from segtasks.shards.writer import ok
from segtasks.spec import DatasetSpec
from segtasks.stages import _run
from segtasks.stages._run import Proposal, Stage
from segtasks.stages._shard import ShardWorker, work_item
from segtasks.stages.config import StageConfig
from segtasks.storage import Store, open_store
from segtasks.storage._store import LocalStore

RECIPE = Recipe(stage="no-op", version=1, rows="evaluation/1", config={}, spec=DatasetSpec(name="no-op"))
WORKERS = 2


class SlowStore(LocalStore):
    """A local store that waits before every read, as long as an object store takes to answer."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        super().__init__(url, options)
        self.seconds = float(self.options.get("seconds", 0))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        time.sleep(self.seconds)
        return super().read_range(path, start, end)

    def read(self, path: str) -> bytes:
        time.sleep(self.seconds)
        return super().read(path)


def make_units(count: int) -> list[Unit]:
    """Named like those of a derived stage: one for one shard of a parent."""
    units = []
    for number in range(count):
        ids, parent = digest_ids([image_of(number)]), f"shards/train/part-{number:032x}.parquet"
        units.append(Unit(unit_key(RECIPE.id, [parent, ids, 1]), "train", 1, 64 << 20, ids, parent))
    return units


def image_of(number: int) -> str:
    return f"train/{number:09d}.jpg"


class NoOpWorker(ShardWorker[str]):
    """One row a shard, and nothing to compute."""

    def inputs(self, unit: Unit) -> Sequence[str]:
        return [image_of(int(unit.parent_shard.removesuffix(".parquet")[-32:], 16))]

    def make_rows(self, inputs: Iterable[str]) -> Iterator[Sequence[Mapping[str, Any]]]:
        for name in inputs:
            yield [ok(self.origin(name))]

    def origin(self, one: str) -> dict[str, Any]:
        return {"image_id": one, "parent_id": one, "split": "train"}


@dataclass(frozen=True)
class Factory:
    url: str
    plan: Plan

    def __call__(self) -> NoOpWorker:
        return NoOpWorker("evaluation/1", open_store(self.url), self.plan, Limits())


def make_stage(folder: str, count: int, engine: str, store: Store | None = None) -> Stage:
    def propose(own: Snapshot | None) -> Proposal:
        return Proposal(make_units(count) if own is None else [])

    config = StageConfig(output=folder, engine=EngineConfig(name=engine, workers=WORKERS))
    return Stage("no-op", config, store or open_store(folder), RECIPE, propose, lambda plan: Factory(folder, plan))


def returns_a_record(item: dict[str, Any]) -> dict[str, Any]:
    """A worker that touches no store: what travels is as large as in a real run."""
    unit = item["unit"]
    path = f"shards/train/part-{unit['key']}.parquet"
    record = ShardRecord(
        path,
        unit["key"],
        "train",
        rows=1,
        bytes=4000,
        done=1,
        quarantined=0,
        empty=0,
        inputs=1,
        ids=unit["ids"],
        parent_shard=unit["parent_shard"],
        digest="0" * 64,
    )
    return record.as_json()


def returns_it() -> Callable[[dict[str, Any]], dict[str, Any]]:
    return returns_a_record


# What a process measures ------------------------------------------------------------------------------------------------------------


def measure_map(engine_name: str, count: int, rounds: int) -> dict[str, Any]:
    """Items a second of ours and of others over the same items, one after the other in every round."""
    items = [work_item(unit) for unit in make_units(count)]
    config = EngineConfig(name=engine_name, workers=WORKERS)
    found: dict[str, list[float]] = {}
    with closing(open_engine(config)) as engine:
        ways = {"ours": functools.partial(ours, engine), **(RAY_WAYS if engine_name == "ray" else LOCAL_WAYS)}
        for _ in range(rounds):
            for name, way in ways.items():
                found.setdefault(name, []).append(rate(way(items), count))
    ratios = {name: statistics.median(a / b for a, b in zip(found["ours"], rates)) for name, rates in found.items() if name != "ours"}
    return {"items_per_second": {name: round(statistics.median(rates)) for name, rates in found.items()}, "ratio": ratios}


def rate(answers: Iterator[Any], count: int) -> float:
    """Answers a second from the first to the last, so that the start of processes (seconds, once a stage) is left out.

    That favours whoever holds the first answer back until a block of them is done: Ray Data.
    """
    next(answers)
    start = time.perf_counter()
    others = sum(1 for _ in answers)
    assert others == count - 1, f"{others + 1} answers to {count} items"
    return others / (time.perf_counter() - start)


def ours(engine: Engine, items: Sequence[dict[str, Any]]) -> Iterator[Any]:
    with closing(engine.map(returns_it, items)) as outcomes:
        yield from outcomes


def actor_pool(items: Sequence[dict[str, Any]]) -> Iterator[Any]:
    import ray
    from ray.util import ActorPool

    actors = [ray.remote(num_cpus=1)(_Actor).remote() for _ in range(WORKERS)]
    try:
        yield from ActorPool(actors).map_unordered(lambda actor, item: actor.run.remote(item), items)
    finally:
        for actor in actors:
            ray.kill(actor)


class _Actor:
    def run(self, item: dict[str, Any]) -> dict[str, Any]:
        return returns_a_record(item)


def ray_data(items: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """The usual pipeline. Descriptors go as JSON, since a column of dicts would be retyped."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"item": json.dumps(item)} for item in items]
    data = ray.data.from_items(rows).map_batches(_Batch, batch_size=1, concurrency=WORKERS, num_cpus=1)
    yield from data.iter_rows()


class _Batch:
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"record": [json.dumps(returns_a_record(json.loads(item))) for item in batch["item"]]}


def process_pool(items: Sequence[dict[str, Any]]) -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        yield from pool.imap_unordered(returns_a_record, items, chunksize=1)


RAY_WAYS: dict[str, Callable[[Sequence[dict[str, Any]]], Iterator[Any]]] = {
    "ray.util.ActorPool": actor_pool,
    "Ray Data, its own blocks": ray_data,
}
LOCAL_WAYS: dict[str, Callable[[Sequence[dict[str, Any]]], Iterator[Any]]] = {"multiprocessing.Pool": process_pool}


def measure_stage(folder: str, count: int, engine_name: str) -> dict[str, Any]:
    import pyarrow.parquet  # noqa: F401 - in the base

    config = EngineConfig(name=engine_name, workers=WORKERS)
    with closing(open_engine(config)) as engine:
        list(engine.map(returns_it, [work_item(unit) for unit in make_units(4)]))  # the engine is up: that is in the base too
        base, start = resident(), time.perf_counter()
        result = _run.run(make_stage(folder, count, engine_name), engine, lambda event: None)
        seconds = time.perf_counter() - start
    assert result.counts["shards"] == result.computed_shards == count
    return facts(count, seconds, base)


def measure_again(folder: str, count: int, latency_s: float = 0.0) -> dict[str, Any]:
    """Over finished shards no engine is started; where one were needed, this would fail."""
    import pyarrow.parquet  # noqa: F401 - in the base

    store = SlowStore(folder, {"seconds": latency_s}) if latency_s else None
    base, start = resident(), time.perf_counter()
    result = _run.run(make_stage(folder, count, "local", store), NoEngine(), lambda event: None)
    seconds = time.perf_counter() - start
    assert result.computed_shards == 0
    assert result.counts["shards"] == count
    return facts(count, seconds, base)


class NoEngine:
    name = "none"
    workers = 0

    def map(self, make_worker: Any, items: Any) -> Any:
        raise AssertionError("a finished plan was mapped")

    def train(self, function: Any, world: int, report: Any) -> Any:
        raise AssertionError("nothing to train")

    def close(self) -> None: ...


def measure_parts(folder: str, count: int) -> dict[str, Any]:
    store, seconds = open_store(folder), {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = work()
        seconds[name] = round(time.perf_counter() - start, 2)
        return value

    plan = latest_plan(store)
    assert plan is not None
    units = timed("read the plan's units", lambda: list(read_units(store, plan)))
    present = timed("list the shards", lambda: sum(1 for _ in store.list("shards")))
    assert len(units) == present == count
    records = timed("list, and read the records", lambda: _run._read_records(store, plan, units, Journal(store, plan.number)))
    start = time.perf_counter()
    snapshot = publish(store, recipe=RECIPE, plan=plan.number, input=None, source=None, records=records.values())
    seconds["publish"] = round(time.perf_counter() - start, 2)
    list_bytes = sum(entry.size for entry in store.list("snapshots/lists"))
    again = timed("open the snapshot's records", lambda: Snapshot(store, snapshot.file).records)
    assert again == records
    return {"seconds": seconds, "list_bytes_a_shard": round(list_bytes / count)}


def facts(count: int, seconds: float, base: int) -> dict[str, Any]:
    peak = high_water()
    return {
        "seconds": round(seconds, 2),
        "shards_per_second": round(count / seconds),
        "peak_MiB": round(peak / 2**20),
        "over_base_MiB": round((peak - base) / 2**20),
    }


def resident() -> int:
    """Resident bytes now; the high-water mark starts again from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def high_water() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) << 10


# The order of measures --------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--engines", nargs="+", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--items", type=int, default=2_000, help="of the map alone, a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=5.0)
    parser.add_argument("--folder", help="where the shards go; none: a temporary folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(globals()[f"measure_{arguments.one}"](**json.loads(sys.stdin.read()))))
        return
    for engine in arguments.engines:
        show(f"map, {engine}", alone("map", engine_name=engine, count=arguments.items, rounds=arguments.rounds))
    peaks: dict[str, dict[int, int]] = {}
    with tempfile.TemporaryDirectory(prefix="segtasks-control-plane-", dir=arguments.folder) as root:
        for count in arguments.sizes:
            for engine in arguments.engines if count < 100_000 else arguments.engines[-1:]:
                folder = os.path.join(root, f"{engine}-{count}")
                found = alone("stage", folder=folder, count=count, engine_name=engine)
                show(f"stage, {engine}, {count:,}", found)
                peaks.setdefault(f"stage, {engine}", {})[count] = found["peak_MiB"]
            show(f"finished, {count:,}", alone("again", folder=folder, count=count))
            for name, work in (
                ("resume", functools.partial(alone, "again", folder=folder, count=count)),
                ("resume, no journal", functools.partial(alone, "again", folder=folder, count=count)),
                (
                    f"resume, no journal, {arguments.latency_ms:g} ms a read",
                    functools.partial(alone, "again", folder=folder, count=count, latency_s=arguments.latency_ms / 1000),
                ),
                ("parts", functools.partial(alone, "parts", folder=folder, count=count)),
            ):
                shutil.rmtree(os.path.join(folder, "snapshots"))
                if "no journal" in name:
                    for records in Path(folder).glob("plans/*/records"):
                        shutil.rmtree(records)
                found = work()
                show(f"{name}, {count:,}", found)
                if "peak_MiB" in found:
                    peaks.setdefault(name, {})[count] = found["peak_MiB"]
    for name, by_count in peaks.items():
        few, many = min(by_count), max(by_count)
        if many > few:
            growth = (by_count[many] - by_count[few]) * 2**20 / (many - few)
            print(f"driver's memory, {name}: {growth:,.0f} bytes a shard more, from {few:,} to {many:,} shards")


def alone(name: str, **arguments: Any) -> dict[str, Any]:
    """Run one measure in a fresh process."""
    command = [sys.executable, __file__, "--one", name]
    done = subprocess.run(command, input=json.dumps(arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} {arguments} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(name: str, found: dict[str, Any]) -> None:
    words = []
    for key, value in found.items():
        if isinstance(value, dict):
            words += [f"{part} {number:,.2f}" if isinstance(number, float) else f"{part} {number:,}" for part, number in value.items()]
            words[-len(value)] = f"{key.replace('_', ' ')}: {words[-len(value)]}"
        else:
            words.append(f"{key.replace('_', ' ')} {value:,}")
    print(f"{name:44}" + "; ".join(words), flush=True)


if __name__ == "__main__":
    main()
