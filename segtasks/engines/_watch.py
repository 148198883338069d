"""A worker process watches itself: when no image is finished for too long, or memory grows past a limit, it ends itself with an
exit code that says so. That works alike under every engine, and a hang in C that holds the interpreter's lock ends too."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from segtasks.config import Config, execution

TIMED_OUT, OUT_OF_MEMORY = 86, 87  # exit codes
_poll_seconds = 0.05
_page_bytes = os.sysconf("SC_PAGE_SIZE")
_lock_held_seconds = 5.0  # beyond the limit: by then the thread below has had its chance

killable = False  # set in worker processes; the driver must never end itself
farewell: Callable[[int], None] | None = None  # told the exit code just before, where the engine cannot see it otherwise


class Limits(Config):
    """What one image may take before its worker is ended and the image is tried alone."""

    seconds: float = execution(600.0, gt=0, description="longest time in which a worker finishes no image")
    memory_bytes: int | None = execution(None, ge=1 << 20, description="largest resident memory of a worker process; none: the machine's")


class Watch:
    """`with Watch(limits) as beat:` and call `beat()` whenever an image is finished. Does nothing in the driver's own process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last = time.monotonic()
        self._stop = threading.Event()

    def __enter__(self) -> Watch:
        if killable:
            self()
            threading.Thread(target=self._run, name="segtasks-watch", daemon=True).start()
        return self

    def __call__(self) -> None:
        self._last = time.monotonic()
        if killable:
            faulthandler.dump_traceback_later(self._limits.seconds + _lock_held_seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if killable:
            faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        while not self._stop.wait(_poll_seconds):
            if self._limits.memory_bytes is not None and resident_bytes() > self._limits.memory_bytes:
                _leave(OUT_OF_MEMORY)
            if time.monotonic() - self._last > self._limits.seconds:
                _leave(TIMED_OUT)


def _leave(code: int) -> None:
    if farewell is not None:
        farewell(code)
    os._exit(code)


def resident_bytes() -> int:
    """Resident memory of this process."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _page_bytes
    except OSError:  # not Linux
        return 0
