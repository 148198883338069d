"""An engine that is opened when there is work: to find that everything is done needs no cluster and no processes.

It also keeps signals working. Ray replaces the handler of SIGTERM, and while the main thread waits inside Ray, an exception that
another handler raises (Prefect's, of a cancelled run) is lost. So Ray waits in a thread, and the main thread waits for that.

Prefect's worker sends SIGTERM to the whole process group, Ray's own processes included, so the driver often outlives its cluster.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

from segtasks.engines import open_engine
from segtasks.engines._base import JSON, Done, Engine, Failed, Rank, Report, WorkerFactory
from segtasks.engines.config import EngineConfig

T = TypeVar("T")
_grace_s = 10.0
_look_every_s = 0.2
_end: Any = object()
# Ray reads these when it is imported. A driver whose cluster has just gone would wait 5 s to send it statistics.
_ray_settings = {"RAY_task_events_shutdown_flush_timeout_ms": "200"}


class LazyEngine:
    """Opens what `config` names at the first call that needs it; after `close`, the next such call opens another."""

    def __init__(self, config: EngineConfig) -> None:
        self.name: str = config.name
        self._config = config
        self._engine: Engine | None = None

    @property
    def workers(self) -> int:
        wanted = self._config.workers
        if wanted is not None and self._engine is None:
            return wanted if self.name == "local" else max(1, wanted)
        return self._open().workers

    def map(self, make_worker: WorkerFactory, items: Sequence[JSON]) -> Generator[Done | Failed, None, None]:
        if not items:
            return
        engine = self._open()
        outcomes = engine.map(make_worker, items)
        try:
            while (outcome := self._waiting(lambda: next(outcomes, _end))) is not _end:
                yield outcome
        finally:
            # of an engine that a signal has closed nothing is left to stop, and what says so is noise
            with suppress(*(() if self._engine is engine else (Exception,))):
                outcomes.close()

    def train(self, function: Callable[[Rank], JSON], world: int, report: Report) -> JSON:
        engine = self._open()
        return self._waiting(lambda: engine.train(function, world, report))

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _open(self) -> Engine:
        if self._engine is None:
            if self.name == "ray":
                for name, value in _ray_settings.items():
                    os.environ.setdefault(name, value)
            with sigterm_kept():
                self._engine = open_engine(self._config)
        return self._engine

    def _waiting(self, call: Callable[[], T]) -> T:
        return call() if self.name == "local" else aside(call, self.close)


def aside(call: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Run `call` in a thread and wait where signals are seen. What a signal's handler raises ends the wait, after `interrupt`."""
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()  # not `Thread.join`, which takes the thread for ended when a handler raises in it

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=copy_context().run, args=(run,), name="segtasks-engine", daemon=True)
    try:
        thread.start()
        while not done.wait(_look_every_s):
            pass  # a signal that comes just before a wait does not end it, so waits are short
    except BaseException:
        interrupt()
        done.wait(_grace_s)
        raise
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
