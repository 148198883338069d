"""An engine that is opened when there is work: to find that everything is done needs no cluster and no processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager

from segtasks.engines import open_engine
from segtasks.engines._base import JSON, Done, Engine, Failed, Rank, Report, WorkerFactory
from segtasks.engines.config import EngineConfig


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
        with closing(self._open().map(make_worker, items)) as outcomes:
            yield from outcomes

    def train(self, function: Callable[[Rank], JSON], world: int, report: Report) -> JSON:
        return self._open().train(function, world, report)

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _open(self) -> Engine:
        if self._engine is None:
            with sigterm_kept():
                self._engine = open_engine(self._config)
        return self._engine


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back afterwards: Ray sets its own, which exits 15 and hides a cancelled run from Prefect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
