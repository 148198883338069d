"""Does a store keep create-only writes under a race? Several processes write the same name at once: exactly one may win.

    python benchmarks/create_race.py s3://bucket/folder --size 150000000 --keys 50 --processes 8

STORE is a URL (options for it as YAML: `--storage '{endpoint_url: ...}'`), or `local`, `memory`, `moto`, `seaweed`, `azurite` or
`fake-gcs`, which are started for the purpose. Each object is removed once it has been checked, so that a store of a few
objects' size is enough. It ends with exit code 1 when a name had no winner or several, or holds anything but the winner's bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtasks.storage import open_store

_patience_seconds = 1800.0  # for the slowest writer of one key


@dataclass
class Race:
    """What came of it. `winners` has the number of winners of each key; everything is as it must be when `holds`."""

    processes: int
    size: int
    winners: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # keys that do not hold the winner's bytes
    errors: list[str] = field(default_factory=list)  # writers that were told neither
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return bool(self.winners) and set(self.winners) == {1} and not self.wrong and not self.errors

    def __str__(self) -> str:
        several, none = sum(count > 1 for count in self.winners), self.winners.count(0)
        return (
            f"{len(self.winners)} keys x {self.processes} writers x {self.size} bytes in {self.seconds:.0f} s: "
            f"{self.winners.count(1)} with one winner, {several} with several, {none} with none, {len(self.wrong)} with wrong bytes, "
            f"{len(self.errors)} errors{': ' + self.errors[0] if self.errors else ''}"
        )


def race(url: str, storage: dict[str, dict[str, Any]], *, size: int, keys: int, processes: int, seconds: float = float("inf")) -> Race:
    """Run it, beginning no key after `seconds`. Writers of `memory://` are threads, since that store is one process's."""
    context: Any = multiprocessing.get_context("spawn")
    folder = f"race-{uuid.uuid4().hex[:8]}"
    arguments = (url, storage, folder, size, keys)
    if url.startswith("memory://"):
        barrier: Any = threading.Barrier(processes + 1)
        results: Any = queue.Queue()
        writers: list[Any] = [threading.Thread(target=_write, args=(*arguments, n, barrier, results)) for n in range(processes)]
    else:
        barrier, results = context.Barrier(processes + 1), context.Queue()
        writers = [context.Process(target=_write, args=(*arguments, n, barrier, results), daemon=True) for n in range(processes)]
    outcome = Race(processes, size)
    started = time.monotonic()
    for writer in writers:
        writer.start()
    store = open_store(url, storage)
    try:
        early: list[_Told] = []  # of the next key: the queue keeps no order between processes
        for key in range(keys):
            if time.monotonic() - started > seconds:
                break
            barrier.wait(_patience_seconds)
            told = [one for one in early if one.key == key]
            early = [one for one in early if one.key != key]
            while len(told) < processes:
                one = _next(results, writers)
                (told if one.key == key else early).append(one)
            outcome.winners.append(sum(one.won for one in told))
            outcome.errors += [one.error for one in told if one.error]
            if not all(one.intact for one in told if one.won):
                outcome.wrong.append(f"{folder}/{key}")
            store.delete(f"{folder}/{key}")
    finally:
        barrier.abort()
        for writer in writers:
            writer.join(30)
            if not isinstance(writer, threading.Thread) and writer.is_alive():
                writer.kill()
    outcome.seconds = time.monotonic() - started
    return outcome


@dataclass(frozen=True)
class _Told:
    """What one writer was told about one key; `intact`: it won, and the object holds its bytes."""

    key: int
    won: bool
    intact: bool
    error: str


def _next(results: Any, writers: list[Any]) -> _Told:
    stop = time.monotonic() + _patience_seconds
    while True:
        try:
            told: _Told = results.get(timeout=5)
            return told
        except queue.Empty:
            if time.monotonic() > stop or any(getattr(writer, "exitcode", None) not in (None, 0) for writer in writers):
                raise RuntimeError("a writer died or never answered") from None


def _write(
    url: str, storage: dict[str, dict[str, Any]], folder: str, size: int, keys: int, number: int, barrier: Any, results: Any
) -> None:
    """One writer: for each key, write as everyone else does, and check the bytes if told to have won."""
    store = open_store(url, storage)
    block = os.urandom(1 << 20)
    for key in range(keys):
        mark = f"writer {number} key {key} ".encode()
        data = b"".join([mark, block * (size >> 20), block])[:size]
        try:
            barrier.wait(_patience_seconds)
        except threading.BrokenBarrierError:
            return
        won, intact, error = False, False, ""
        try:
            won = store.create(f"{folder}/{key}", data)
            intact = won and store.read(f"{folder}/{key}") == data
        except Exception:
            error = traceback.format_exc(limit=1)
        results.put(_Told(key, won, intact, error))
        del data


@contextlib.contextmanager
def _site(name: str, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """The URL and the storage options of `name`; its server runs meanwhile."""
    from tests.servers import stores

    with tempfile.TemporaryDirectory(prefix="create-race-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        if name == "local":
            site = stores.Site(str(root / "store"))
        elif name == "memory":
            site = stores.Site(f"memory://{uuid.uuid4().hex}")
        elif name == "moto":
            server, endpoint = stores.start_moto(root / "moto")
            stack.callback(server.kill)
            site = stores.new_s3_bucket(endpoint, stores.s3_environment())
        elif name == "seaweed":
            weed = stores.Seaweed(root / "seaweed")
            stack.callback(weed.kill)
            weed.start()
            site = weed.new_bucket()
        elif name == "azurite":
            server, port = stores.start_azurite(root / "azurite")
            stack.callback(server.kill)
            site = stores.new_azure_container(port)
        elif name == "fake-gcs":
            server, endpoint = stores.start_fake_gcs(root / "gcs")
            stack.callback(server.kill)
            site = stores.new_gcs_bucket(endpoint)
        else:
            site = stores.Site(name, {name: options})
        os.environ.update(site.environment)
        yield site.url, site.storage


def main() -> int:
    import yaml

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--size", type=int, default=1000, help="bytes of each object")
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no key after this time")
    parser.add_argument("--storage", type=yaml.safe_load, default={}, help="storage options of a URL, as YAML")
    arguments = parser.parse_args()
    with _site(arguments.store, arguments.storage) as (url, storage):
        outcome = race(url, storage, size=arguments.size, keys=arguments.keys, processes=arguments.processes, seconds=arguments.seconds)
    print(f"{arguments.store}: {outcome}")
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
