"""An engine that is opened when there is work: to find that everything is done needs no cluster and no processes.

It also keeps signals working. While the main thread waits inside Ray, what a signal's handler raises (Prefect's, of a cancelled
run) is lost, and what it raises inside `ray.init` leaves Ray half made. So all of Ray runs in threads, and the main thread waits for
those, where nothing is lost. Of the handlers, Ray's C++ part replaces SIGTERM's by one that ends the process: it is put back.

Prefect's worker sends SIGTERM to the whole process group, Ray's own processes included, so the driver often outlives its cluster.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from segtasks.engines import open_engine
from segtasks.engines._base import JSON, Done, Engine, Failed, Rank, Report, WorkerFactory
from segtasks.engines.config import EngineConfig
from segtasks.signals import leave_if_asked, reassert_sigterm, sigterm_noted

log = logging.getLogger(__name__)
T = TypeVar("T")
_grace_s = 10.0  # for what waits for an engine that is being closed
_opening_s = 60.0  # for a cluster that is being started when a signal comes: closed as soon as it stands, no process of it is left
_closing_s = 30.0
_look_every_s = 0.2
_end: Any = object()
# Ray reads these when it is imported. A driver whose cluster has just gone would wait 5 s to send it statistics.
_ray_settings = {"RAY_task_events_shutdown_flush_timeout_ms": "200"}


class LazyEngine:
    """Opens what `config` names at the first call that needs it; after `close`, the next such call opens another."""

    def __init__(self, config: EngineConfig) -> None:
        self.name: str = config.name
        self._config = config
        self._aside = config.name != "local"
        self._engine: Engine | None = None
        self._closed = threading.Event()

    @property
    def workers(self) -> int:
        wanted = self._config.workers
        if wanted is not None and self._engine is None:
            return wanted if self.name == "local" else max(1, wanted)
        with self._signals_noted():
            engine = self._open()
            return self._waiting(lambda: engine.workers)

    def map(self, make_worker: WorkerFactory, items: Sequence[JSON]) -> Generator[Done | Failed, None, None]:
        if not items:
            return
        with self._signals_noted():
            engine = self._open()
            outcomes = engine.map(make_worker, items)
            try:
                while (outcome := self._waiting(lambda: next(outcomes, _end))) is not _end:
                    leave_if_asked()
                    yield outcome
            finally:
                # of an engine that a signal has closed nothing is left to stop, and what says so is noise
                with suppress(*(() if self._engine is engine else (Exception,))):
                    outcomes.close()

    def train(self, function: Callable[[Rank], JSON], world: int, report: Report) -> JSON:
        with self._signals_noted():
            engine = self._open()
            return self._waiting(lambda: engine.train(function, world, report))

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if not self._aside:
            engine.close()
            return
        with sigterm_noted():  # and raised later: there may be other engines to close
            closing = _Call(engine.close)
            closing.start()
            if not closing.done.wait(_closing_s):
                log.warning("Ray does not answer; it is left to end with this process")
                return
            self._closed.set()
            reassert_sigterm()
            closing.result()

    def _open(self) -> Engine:
        if self._engine is None:
            if not self._aside:
                self._engine = open_engine(self._config)
                return self._engine
            for name, value in _ray_settings.items():
                os.environ.setdefault(name, value)
            self._closed = threading.Event()
            try:
                _wait_for(_Call(self._keep_open, linger=self._closed), lambda: None, _opening_s)
            finally:
                reassert_sigterm()
        assert self._engine is not None
        return self._engine

    def _keep_open(self) -> None:
        self._engine = open_engine(self._config)  # where a signal ends the wait, `close` still finds it

    def _waiting(self, call: Callable[[], T]) -> T:
        return aside(call, self.close) if self._aside else call()

    def _signals_noted(self) -> AbstractContextManager[None]:
        return sigterm_noted() if self._aside else nullcontext()


class _Call(Generic[T]):
    """A call in a thread of its own, which does not keep the process alive.

    With `linger` the thread stays until that is set: Linux kills what a thread has started with `PR_SET_PDEATHSIG`, as Ray starts
    its processes, when that thread ends.
    """

    def __init__(self, call: Callable[[], T], linger: threading.Event | None = None) -> None:
        self._call, self._linger = call, linger
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self.done = threading.Event()  # not `Thread.join`, which takes the thread for ended when a handler raises in it
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="segtasks-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def result(self) -> T:
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self._errors.append(error)
        finally:
            self.done.set()
        if self._linger is not None and not self._errors:
            self._linger.wait()


def aside(call: Callable[[], T], interrupt: Callable[[], None], grace_s: float = _grace_s) -> T:
    """Run `call` in a thread and wait where signals are seen. What a signal's handler raises ends the wait, after `interrupt`."""
    return _wait_for(_Call(call), interrupt, grace_s)


def _wait_for(running: _Call[T], interrupt: Callable[[], None], grace_s: float) -> T:
    leave_if_asked()
    try:
        running.start()
        while not running.done.wait(_look_every_s):
            leave_if_asked()  # and a signal that comes just before a wait does not end it, so waits are short
    except BaseException:
        interrupt()
        running.done.wait(grace_s)
        raise
    return running.result()
