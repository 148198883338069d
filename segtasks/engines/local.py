"""Spawned processes on this machine, each with one stateful worker; 0 workers run inline, for debugging and `memory://`.

A worker that dies takes one item with it: the item comes back as `Failed`, a fresh process takes the place, the rest goes on.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from segtasks.engines import _watch
from segtasks.engines._base import JSON, Done, Failed, Rank, Report, Worker, WorkerFactory
from segtasks.engines._worker import available_cpus, device_for, failure, how_it_died
from segtasks.errors import SegtasksError

_context = multiprocessing.get_context("spawn")
_grace_seconds = 5.0
_peer_seconds = 2.0  # after one rank failed: how long the others may take to say why they did


class LocalEngine:
    """`workers` processes; None: one a CPU; 0: inline."""

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = available_cpus() if workers is None else workers
        self._processes: set[SpawnProcess] = set()

    def map(self, make_worker: WorkerFactory, items: Sequence[JSON]) -> Generator[Done | Failed, None, None]:
        if not items:
            return
        if self.workers == 0:
            yield from _inline(make_worker, items)
            return
        members = [_Member(self, make_worker) for _ in range(min(self.workers, len(items)))]
        waiting = iter(items)
        busy: dict[Any, _Member] = {}
        try:
            for member in members:
                if (item := next(waiting, None)) is not None:
                    member.give(item)
                    busy[member.connection] = member
            while busy:
                for ready in wait(list(busy)):
                    member = busy.pop(ready)
                    yield member.take()
                    if (item := next(waiting, None)) is not None:
                        member.give(item)
                        busy[member.connection] = member
        finally:
            for member in members:
                member.stop()

    def train(self, function: Any, world: int, report: Report) -> JSON:
        if world <= 1:
            result: JSON = function(Rank(rank=0, world=1, report=report, device=device_for(0)))
            return result
        port = _free_port()
        members = [_RankProcess(self, function, rank, world, port) for rank in range(world)]
        try:
            return _gather(members, report)
        finally:
            for member in members:
                member.stop()

    def close(self) -> None:
        for process in list(self._processes):
            _end(process)
            self._processes.discard(process)

    def start(self, target: Any, args: tuple[Any, ...]) -> SpawnProcess:
        """Spawn a daemon process that this engine ends on `close`."""
        process = _context.Process(target=target, args=args, daemon=True)
        process.start()
        self._processes.add(process)
        return process

    def forget(self, process: SpawnProcess) -> None:
        _end(process)
        self._processes.discard(process)


def _inline(make_worker: WorkerFactory, items: Sequence[JSON]) -> Generator[Done | Failed, None, None]:
    worker: Worker | None = None
    for item in items:
        try:
            worker = worker or make_worker()
            yield Done(item, worker(item))
        except Exception as error:
            yield failure(item, error)


class _Member:
    """One worker process and the driver's end of its pipe."""

    def __init__(self, engine: LocalEngine, make_worker: WorkerFactory) -> None:
        self._engine, self._make_worker = engine, make_worker
        self._item: JSON | None = None
        self._start()

    def _start(self) -> None:
        self.connection, theirs = _context.Pipe()
        self._process = self._engine.start(_serve, (theirs, self._make_worker))
        theirs.close()

    def give(self, item: JSON) -> None:
        self._item = item
        with suppress(BrokenPipeError, OSError):  # died while idle: take() sees the closed pipe and says so
            self.connection.send(item)

    def take(self) -> Done | Failed:
        assert self._item is not None
        item, self._item = self._item, None
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(_grace_seconds)
            code = self._process.exitcode
            self.stop()
            self._start()
            return Failed(item, how_it_died(code), "WorkerDied", f"the worker process died ({_describe_exit(code)})")
        return Done(item, value) if kind == "done" else value

    def stop(self) -> None:
        self.connection.close()
        self._engine.forget(self._process)


def _serve(connection: Connection, make_worker: WorkerFactory) -> None:
    """The worker process: items in, outcomes out, until the driver's end of the pipe is closed (or the driver is gone)."""
    _ignore_interrupt()
    _watch.killable = True
    worker: Worker | None = None
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            worker = worker or make_worker()
            outcome: tuple[str, Any] = ("done", worker(item))
        except Exception as error:
            outcome = ("failed", failure(item, error))
        try:
            connection.send(outcome)
        except (BrokenPipeError, OSError):
            return


class _RankProcess:
    """One rank of a training group."""

    def __init__(self, engine: LocalEngine, function: Any, rank: int, world: int, port: int) -> None:
        self._engine, self.rank = engine, rank
        self.connection, theirs = _context.Pipe()
        self.process = engine.start(_serve_rank, (theirs, function, rank, world, port))
        theirs.close()

    def died(self) -> SegtasksError:
        self.process.join(_grace_seconds)
        how = _describe_exit(self.process.exitcode)
        return SegtasksError(f"training rank {self.rank} died ({how}); run again to resume from the last checkpoint")

    def stop(self) -> None:
        self.connection.close()
        self._engine.forget(self.process)


def _gather(members: list[_RankProcess], report: Report) -> JSON:
    """Events go to `report`; rank 0's result is returned; if a rank fails, its own error is raised, not that of a deserted peer."""
    result: JSON = {}
    errors: list[Exception] = []
    open_members: dict[Any, _RankProcess] = {member.connection: member for member in members}
    while open_members:
        ready_now = wait(list(open_members), timeout=_peer_seconds if errors else None)
        if not ready_now:
            break
        for ready in ready_now:
            member = open_members[ready]
            try:
                kind, value = member.connection.recv()
            except (EOFError, OSError):
                kind, value = "error", member.died()
            if kind == "event":
                report(value)
                continue
            del open_members[ready]
            if kind == "error":
                errors.append(value)
            elif member.rank == 0:
                result = value
    if errors:
        raise next((error for error in errors if isinstance(error, SegtasksError)), errors[0])
    return result


def _serve_rank(connection: Connection, function: Any, rank: int, world: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    _ignore_interrupt()
    lock = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with lock, suppress(BrokenPipeError, OSError):  # the driver is gone or has given up: it needs no answer
            connection.send((kind, value))

    def report(event: JSON) -> None:
        send("event", event)

    device = device_for(rank)
    torch.set_num_threads(max(1, available_cpus() // world))
    try:
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
        try:
            result = function(Rank(rank=rank, world=world, report=report, device=device))
        finally:
            dist.destroy_process_group()
    except Exception as error:
        send("error", _picklable(error))
        return
    send("result", result)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _ignore_interrupt() -> None:
    """Ctrl-C reaches the whole process group; the driver alone decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(process: SpawnProcess) -> None:
    """Give an idle worker a moment to see its closed pipe, then terminate, then kill."""
    process.join(0.2)
    for stop in (process.terminate, process.kill):
        if not process.is_alive():
            break
        stop()
        process.join(_grace_seconds)
    process.join()
    process.close()


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
