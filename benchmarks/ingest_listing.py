"""What ingest costs beside reading images: `python benchmarks/ingest_listing.py [--keys 1000000]`.

From a source's keys to a plan. Each measure runs in a process of its own, so that its peak memory (VmHWM, over what the
process held before) is its own, at a tenth of the keys and at all of them: what a key takes is the growth between the two.

- keys: planning alone, over keys that are made up on the way: scan, unique ids, cut, manifests written.
- keys with groups and splits: the same with 20 images a group, listed in turn, and splits by hash.
- files: the same over empty files on this disk, 1,000 a folder, through the reader `images`; and the walk of the disk alone.
- delta: the keys again, with as many known rows in the output; 1% of them changed, 1% new, 1% gone.
- known: reading the known rows alone.

`--bucket` measures a bucket's listing instead, from moto in a process of its own: page by page, sorted on disk as for a store that does
not list in order, and with fsspec's `find`, which holds all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # also where it is called by its path

from benchmarks.control_plane import high_water, resident  # noqa: E402
from segtasks.engines import EngineConfig, open_engine  # noqa: E402
from segtasks.engines._watch import Limits  # noqa: E402
from segtasks.readers import images  # noqa: E402
from segtasks.readers._base import SourceItem  # noqa: E402
from segtasks.shards.plan import LISTS, Plan, Unit  # noqa: E402
from segtasks.shards.recipe import Recipe, claim_recipe  # noqa: E402
from segtasks.shards.snapshot import latest_snapshot  # noqa: E402
from segtasks.shards.tables import read_table  # noqa: E402
from segtasks.shards.writer import ok  # noqa: E402
from segtasks.spec import DatasetSpec  # noqa: E402
from segtasks.stages import _run  # noqa: E402
from segtasks.stages._delta import propose_delta  # noqa: E402
from segtasks.stages._known import Known  # noqa: E402
from segtasks.stages._run import Proposal, Stage  # noqa: E402
from segtasks.stages._shard import ShardWorker  # noqa: E402
from segtasks.stages.config import IngestConfig  # noqa: E402
from segtasks.storage import Entry, Store, _listing, open_store  # noqa: E402

RECIPE = Recipe(stage="ingest", version=1, rows="samples/1", config={}, spec=DatasetSpec(name="keys"))
image_bytes = 100_000
a_group = 20
a_folder = 1_000


def keys(count: int, *, groups: bool = False, changed: int = 0) -> Iterator[SourceItem]:
    """Keys as a bucket has them; every `changed`th with another version."""
    for number in range(count):
        path = f"2026/11/{number // 10_000:05d}/camera-{number % 7}/frame-{number:09d}.jpg"
        version = f"{number:032x}" if not changed or number % changed else f"changed-{number:024x}"
        yield SourceItem(path, path, image_bytes, version, "", f"video-{number % (count // a_group)}" if groups else "")


def config_of(output: str, **settings: Any) -> IngestConfig:
    return IngestConfig.model_validate({"source": "keys", "format": "images", "output": output, **settings})


def timed_plan(folder: str, items: Iterable[SourceItem], known: bool = False, **settings: Any) -> dict[str, Any]:
    """Plan as a run does, lists written; no worker is started."""
    store = open_store(folder)
    base, start = resident(), time.perf_counter()
    proposal: Proposal = propose_delta(items, config_of(folder, **settings), store, RECIPE, latest_snapshot(store) if known else None)
    seconds = time.perf_counter() - start
    return {**facts(seconds, base), "units": len(proposal.units), **proposal.changes}


def facts(seconds: float, base: int) -> dict[str, Any]:
    return {"seconds": round(seconds, 1), "peak_MiB": round(high_water() / 2**20), "over_base_MiB": round((high_water() - base) / 2**20)}


def measure_keys(folder: str, count: int) -> dict[str, Any]:
    return timed_plan(f"{folder}/keys-{count}", keys(count))


def measure_keys_with_groups_and_splits(folder: str, count: int) -> dict[str, Any]:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    return timed_plan(f"{folder}/groups-{count}", keys(count, groups=True), splits=shares)


def measure_files(folder: str, count: int) -> dict[str, Any]:
    source = open_store(f"{folder}/files-{count}")
    for number in range(count):
        path = Path(source.url, f"{number // a_folder:05d}", f"{number:09d}.jpg")
        if number % a_folder == 0:
            path.parent.mkdir(parents=True)
        path.touch()
    start = time.perf_counter()
    assert sum(1 for _ in source.list()) == count
    walk = time.perf_counter() - start
    return {**timed_plan(f"{folder}/plan-{count}", images.build(images.Config(), source).scan()), "walk_alone_seconds": round(walk, 1)}


def measure_make(folder: str, count: int) -> dict[str, Any]:
    """An output with a row a key, as ingest would make it but for the pixels; for the measures below."""
    url = f"{folder}/known-{count}"
    store, config = open_store(url), config_of(url)
    claim_recipe(store, RECIPE)
    stage = Stage(
        name="ingest",
        config=config,
        store=store,
        recipe=RECIPE,
        propose=lambda latest: propose_delta(keys(count), config, store, RECIPE, latest),
        make_worker=lambda plan: _Factory(url, plan),
    )
    _run.run(stage, open_engine(EngineConfig(name="local", workers=0)), lambda event: None)
    return {}


def measure_known(folder: str, count: int) -> dict[str, Any]:
    latest = latest_snapshot(open_store(f"{folder}/known-{count}"))
    base, start = resident(), time.perf_counter()
    assert len(Known(latest)) == count
    return facts(time.perf_counter() - start, base)


def measure_delta(folder: str, count: int) -> dict[str, Any]:
    grown = keys(count + count // 100, changed=100)
    listed = (item for number, item in enumerate(grown) if number % 100 != 50)
    return timed_plan(f"{folder}/known-{count}", listed, known=True, deleted="drop")


@dataclass(frozen=True)
class _Factory:
    url: str
    plan: Plan

    def __call__(self) -> _NoPixels:
        return _NoPixels("samples/1", open_store(self.url), self.plan, Limits())


class _NoPixels(ShardWorker[dict[str, Any]]):
    def inputs(self, unit: Unit) -> Sequence[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_table(self._store, LISTS, unit.items).slice(unit.first_item, unit.inputs).to_pylist()
        return rows

    def make_rows(self, inputs: Iterable[dict[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
        for one in inputs:
            yield [ok(self.origin(one))]

    def origin(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**{name: one[name] for name in ("image_id", "group_id", "split")}, "source_version": one["version"]}


def measure_bucket(endpoint: str, count: int) -> dict[str, Any]:
    return timed_listing(endpoint, count, Store.list)


def measure_bucket_sorted_on_disk(endpoint: str, count: int) -> dict[str, Any]:
    _listing._orderly_servers = set()
    return timed_listing(endpoint, count, Store.list)


def measure_bucket_with_find(endpoint: str, count: int) -> dict[str, Any]:
    return timed_listing(endpoint, count, lambda store: store._find("", "listing"))


def timed_listing(endpoint: str, count: int, listing: Callable[[Store], Iterator[Entry]]) -> dict[str, Any]:
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    store = open_store("s3://keys", {"s3://": {"endpoint_url": endpoint}})
    store.entry(next(keys(1)).path)  # the client is not the listing
    base, start = resident(), time.perf_counter()
    assert sum(1 for _ in listing(store)) == count
    return facts(time.perf_counter() - start, base)


def serve(count: int) -> None:
    """moto with so many empty objects, put into its memory; it says where it is, and ends with its input."""
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket("keys", "us-east-1")
    for item in keys(count):
        backend.put_object("keys", item.path, b"")
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    server.stop()


@contextmanager
def bucket(count: int) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", str(count)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def bucket_listing(count: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {"bucket": [], "bucket_sorted_on_disk": [], "bucket_with_find": []}
    for size in (count // 10, count):
        with bucket(size) as endpoint:
            for measure, answers in found.items():
                answers.append(alone(measure, endpoint=endpoint, count=size))
    for measure, (few, many) in found.items():
        show(measure, count, few, many)


def alone(measure: str, **arguments: Any) -> dict[str, Any]:
    """Run one measure in a process of its own."""
    command = [sys.executable, __file__, "--one", measure]
    done = subprocess.run(command, input=json.dumps(arguments), text=True, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def listing(count: int, folder: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for size in (count // 10, count):
            alone("make", folder=place, count=size)
        for measure in ("keys", "keys_with_groups_and_splits", "files", "known", "delta"):
            few, many = (alone(measure, folder=place, count=size) for size in (count // 10, count))
            show(measure, count, few, many)


def show(measure: str, count: int, few: dict[str, Any], many: dict[str, Any]) -> None:
    growth = (many["over_base_MiB"] - few["over_base_MiB"]) * 2**20 / (count - count // 10)
    print(f"{measure.replace('_', ' ')}: {count // 10:,} {few}\n    {count:,} {many}\n    {growth:.0f} bytes a key", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where source and output are made; none: a temporary folder")
    parser.add_argument("--bucket", action="store_true", help="measure a bucket's listing")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", metavar="MEASURE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(globals()[f"measure_{options.one}"](**json.loads(sys.stdin.read()))))
    elif options.serve:
        serve(options.serve)
    elif options.bucket:
        bucket_listing(options.keys)
    else:
        listing(options.keys, options.folder)


if __name__ == "__main__":
    main()
