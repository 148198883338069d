"""An engine is opened when there is work, and a signal gets through while it waits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segtasks.engines import Done, lazy
from segtasks.engines.config import EngineConfig
from segtasks.engines.lazy import LazyEngine, aside
from segtasks.errors import ConfigError
from segtasks.signals import sigterm_as_exit, sigterm_noted


class Terminated(BaseException):
    """What Prefect's handler raises is neither SystemExit nor KeyboardInterrupt."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    def handler(*_: object) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def make_doubler() -> Callable[[dict[str, int]], dict[str, int]]:
    return lambda item: {"twice": 2 * item["n"]}


def test_without_items_nothing_is_opened_even_where_it_could_not_be() -> None:
    impossible = LazyEngine(EngineConfig(name="local", address="nowhere:1", workers=2))
    assert impossible.workers == 2
    assert list(impossible.map(make_doubler, [])) == []
    with pytest.raises(ConfigError, match="engine local has no address"):
        list(impossible.map(make_doubler, [{"n": 1}]))


def test_with_items_it_maps_like_the_engine_it_opens() -> None:
    engine = LazyEngine(EngineConfig(name="local", workers=0))
    items = [{"n": 1}, {"n": 2}]
    assert list(engine.map(make_doubler, items)) == [Done({"n": 1}, {"twice": 2}), Done({"n": 2}, {"twice": 4})]
    engine.close()
    assert len(list(engine.map(make_doubler, items))) == 2


def test_what_a_handler_raises_ends_the_wait_and_interrupts_the_call() -> None:
    released = threading.Event()
    entered = threading.Event()
    ended = threading.Event()

    def blocks() -> None:
        entered.set()
        released.wait(30)
        ended.set()

    def terminate() -> None:
        entered.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    with sigterm_raises():
        threading.Thread(target=terminate).start()
        with pytest.raises(Terminated):
            aside(blocks, released.set)
    assert ended.is_set()


def test_a_result_and_an_exception_come_back_from_the_thread() -> None:
    assert aside(lambda: 3, lambda: None) == 3
    with pytest.raises(KeyError, match="missing"):
        aside(lambda: {}["missing"], lambda: None)


def test_sigterm_is_only_noted_while_other_threads_work_and_raised_where_the_main_thread_looks() -> None:
    lived = []

    def work() -> None:
        with sigterm_noted():
            os.kill(os.getpid(), signal.SIGTERM)
            lived.append("after the signal")
            with pytest.raises(SystemExit) as left:
                aside(threading.Event().wait, lambda: None, 0.0)
            assert left.value.code == 143
            lived.append("after a look")

    with sigterm_as_exit():
        work()
        assert lived == ["after the signal", "after a look"]
        with pytest.raises(SystemExit):  # nobody else works: raised at once
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sigterm_whose_exception_was_lost_still_ends_the_wait() -> None:
    class Raiser:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)  # what the handler raises here is ignored

    with sigterm_as_exit():
        raiser = Raiser()
        del raiser
        with pytest.raises(SystemExit):
            aside(threading.Event().wait, lambda: None, 0.0)


def test_an_engine_that_does_not_close_is_left_behind(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck:
        workers = 1

        def close(self) -> None:
            threading.Event().wait()

    monkeypatch.setattr(lazy, "open_engine", lambda config: Stuck())
    monkeypatch.setattr(lazy, "_closing_s", 0.1)
    engine = LazyEngine(EngineConfig(name="ray"))
    assert engine.workers == 1
    engine.close()
    assert "Ray does not answer" in caplog.text


def make_sleeper() -> Callable[[dict[str, str]], dict[str, str]]:
    def sleep(item: dict[str, str]) -> dict[str, str]:
        Path(item["started"]).touch()
        time.sleep(600)
        return item

    return sleep


@pytest.mark.slow
def test_a_signal_ends_a_wait_for_ray_and_frees_its_workers(tmp_path: Path) -> None:
    import ray

    started = tmp_path / "started"

    def terminate() -> None:
        deadline = time.monotonic() + 120
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    engine = LazyEngine(EngineConfig(name="ray", workers=1))
    with sigterm_raises():
        outcomes = engine.map(make_sleeper, [{"started": str(started)}])
        threading.Thread(target=terminate).start()
        with pytest.raises(Terminated):
            next(outcomes)
        outcomes.close()
    assert started.exists()
    assert not ray.is_initialized()
