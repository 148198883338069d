"""SIGTERM as an exception, raised where no other thread's work hangs on what it interrupts.

A handler runs between any two instructions of the main thread. What it raises there can leave a lock taken for ever (of `logging`,
say, which the threads that wait for Ray need too), or be lost, when the instructions belong to a `__del__`. So while other threads
work, the handler only notes the signal, and the main thread looks.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
_came = False
_deferring = 0


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """SIGTERM becomes SystemExit(143), so that engines are closed on the way out."""

    def note(number: int, frame: FrameType | None) -> None:
        global _came
        _came = True
        if not _deferring:
            raise SystemExit(EXIT_CODE)

    global _came
    if not _in_main_thread():  # whoever runs us handles signals
        yield
        return
    _came = False
    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        _came = False


@contextmanager
def sigterm_noted() -> Iterator[None]:
    """SIGTERM raises nothing inside: `leave_if_asked` does, there or later."""
    global _deferring
    if not _in_main_thread():
        yield
        return
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1


def leave_if_asked() -> None:
    """SystemExit(143) in the main thread if SIGTERM came."""
    if _came and _in_main_thread():
        raise SystemExit(EXIT_CODE)


def reassert_sigterm() -> None:
    """Install Python's handler of SIGTERM again, after C code has put its own in its place."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and _in_main_thread():
        signal.signal(signal.SIGTERM, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
