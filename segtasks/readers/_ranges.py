"""A file of a store for those who jump about in it: `Store.open` reads 4 MiB ahead, which a footer or a tile is not worth."""

from __future__ import annotations

import io

from segtasks.storage import Store


class Ranges(io.RawIOBase):
    """Fetches what is read, and `ahead` bytes at least, from where it is read on."""

    def __init__(self, source: Store, path: str, ahead: int = 0) -> None:
        self._source, self._path, self._ahead = source, path, ahead
        self._size, self._at = source.size(path), 0
        self._held, self._held_from = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if stop <= self._at:
            return b""
        if self._at < self._held_from or stop > self._held_from + len(self._held):
            end = min(self._size, max(stop, self._at + self._ahead))
            self._held, self._held_from = self._source.read_range(self._path, self._at, end), self._at
        data = self._held[self._at - self._held_from : stop - self._held_from]
        self._at += len(data)
        return data
