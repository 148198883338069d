"""The last few things that a reader made, for images that share one file: threads that want the same wait for the one that makes it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from segtasks.errors import DataFault, error_named

T = TypeVar("T")


class Kept(Generic[T]):
    """At most `most` values by key, the longest unused ones dropped first. A `DataFault` is kept too, other errors are not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, _Slot[T]] = OrderedDict()

    def get(self, key: str, make: Callable[[], T]) -> T:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > self._most:
                self._slots.popitem(last=False)
        with slot.lock:
            if slot.fault is not None:
                raise error_named(type(slot.fault).__name__, str(slot.fault))
            if slot.value is None:
                try:
                    slot.value = make()
                except DataFault as fault:
                    slot.fault = fault
                    raise
            return slot.value


class _Slot(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: T | None = None
        self.fault: DataFault | None = None
