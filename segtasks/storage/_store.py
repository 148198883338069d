"""One store: a root URL and its options. Paths are POSIX and relative to the root; what is written is never overwritten.

`create` is the commit of everything in segtasks: one object, one create-only PUT, and one winner. It never goes multipart,
because no store checked keeps a multipart upload create-only under a race (docs/format.md).
"""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
from fsspec.spec import AbstractBufferedFile

from segtasks.errors import ConfigError, StorageError, StoreRefused
from segtasks.storage import _faults
from segtasks.storage._clients import call, connect
from segtasks.storage._entries import Entry, entry_of
from segtasks.storage._faults import last_start, meaning, seconds_for, translate, wait_before_retry, with_retries
from segtasks.storage._listing import list_bucket
from segtasks.storage._options import StorageOptions, check_options, check_url, options_for

max_object_bytes = 256 << 20  # hard cap of one create-only PUT; also the chunk size, so that no client goes multipart
_PROBE = ".segtasks-probe-"
_memory_lock = threading.Lock()
_unmeasured_bytes = 16 << 20  # a whole read gets time for so many; one that needs more is measured first and tried again
_look_bytes = 64 << 10
_read_ahead_bytes = 4 << 20


def open_store(url: str, storage: StorageOptions | None = None) -> Store:
    """The store at `url` with the options of its longest matching prefix. A plain path is a local folder."""
    storage = storage or {}
    check_options(storage)
    check_url(url)
    protocol, _, rest = url.partition("://")
    if not rest:
        return LocalStore(os.path.abspath(os.path.expanduser(url)))
    if protocol in ("file", "local"):
        return LocalStore(os.path.abspath(urlsplit(url).path))
    if protocol not in fsspec.available_protocols():
        raise ConfigError(f"{url}: unknown protocol {protocol!r}; use a local folder, s3://, gs://, abfs:// or memory://")
    return Store(url.rstrip("/"), options_for(url, storage))


class Store:
    """A store behind fsspec. Picklable: each process opens its own connection."""

    is_local = False
    _retries_inside = True  # so that an answer may have been lost without our seeing it

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.url = url
        self.options = dict(options or {})
        self._lazy_fs: Any = None

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def child(self, path: str) -> Store:
        """The store rooted at a folder below this one."""
        return type(self)(f"{self.url}/{path.strip('/')}", self.options)

    def url_of(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    @property
    def _fs(self) -> Any:
        if self._lazy_fs is None:
            self._lazy_fs = connect(self.url, self.options, max_object_bytes)
        return self._lazy_fs

    def _call(self, name: str, path: str, *arguments: Any, size: int | None = 0, **options: Any) -> Any:
        """One try of a call on the client, with the time that moving `size` bytes may take (None: as long as answers come)."""
        seconds = None if size is None else _faults.attempt_seconds + seconds_for(size)
        return call(self._fs, name, self._key(path), *arguments, seconds=seconds, **options)

    def _info(self, path: str) -> dict[str, Any]:
        return dict(with_retries(lambda: self._call("info", path), f"looking up {self.url_of(path)}"))

    def _key(self, path: str) -> str:
        if "\0" in path:  # out of somebody's list; servers answer it in many ways, or never
            raise FileNotFoundError(f"no object has a zero byte in its name: {self.url_of(path)!r}")
        return str(self._fs._strip_protocol(self.url_of(path)))

    def read(self, path: str) -> bytes:
        """The whole object. A missing one is `FileNotFoundError`."""
        size = _unmeasured_bytes
        options = {"max_concurrency": 1} if self.url.startswith(("s3://", "s3a://")) else {}  # otherwise it asks for the size first

        def once() -> bytes:
            nonlocal size
            try:
                return bytes(self._call("cat_file", path, size=size, **options))
            except TimeoutError:
                size = max(size, int(self._call("info", path)["size"]))
                raise

        return with_retries(once, f"reading {self.url_of(path)}")

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` (inclusive) to `end` (exclusive); a negative start counts from the end."""
        size = _unmeasured_bytes if start < 0 else end - start
        doing = f"reading {self.url_of(path)}"
        return bytes(with_retries(lambda: self._call("cat_file", path, start=start, end=end, size=size), doing))

    def open(self, path: str) -> IO[bytes]:
        """A seekable binary file for reading."""
        file: IO[bytes] = _ReadFile(self, path, self.size(path))
        return file

    def exists(self, path: str) -> bool:
        try:
            self._info(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        return int(self._info(path)["size"])

    def entry(self, path: str) -> Entry:
        """One object as `list` gives it, now. A missing one is `FileNotFoundError`."""
        return entry_of(path, self._info(path))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object under the folder `prefix`, recursively, sorted by path. A missing folder is empty."""
        doing = f"listing {self.url_of(prefix)}"
        paged = list_bucket(self._fs, self.url.partition("://")[0], self._key(""), prefix.strip("/"), doing)
        yield from self._find(prefix, doing) if paged is None else paged

    def _find(self, prefix: str, doing: str) -> Iterator[Entry]:
        try:  # as long as answers come it has time
            found = with_retries(lambda: self._call("find", prefix, detail=True, size=None), doing)
        except FileNotFoundError:
            return
        root, folder = self._key(""), self._key(prefix).rstrip("/")
        for key in sorted(found):
            if found[key].get("type") != "directory" and key != folder:
                yield entry_of(key[len(root) :].lstrip("/"), found[key])

    def leftovers(self) -> Iterator[Entry]:
        """Probes and temporary files that a killed process left behind; `list` of a local store passes over them."""
        return (entry for entry in self.list() if entry.path.rpartition("/")[2].startswith(_PROBE))

    def create(self, path: str, data: bytes) -> bool:
        """Write the object if there is none of that name: True if this call made it (or an equal one), False if another did.

        A lost answer (5xx, time-out, dropped connection) is resolved by reading back. Bytes above the cap are refused.
        """
        if len(data) > max_object_bytes:
            raise StorageError(f"{self.url_of(path)} has {len(data)} bytes; one object may have {max_object_bytes}: make shards smaller")
        stop = last_start()
        attempt, answer_lost = 0, self._retries_inside
        while True:
            try:
                self._put(path, data)
                return True
            except Exception as caught:  # noqa: BLE001 (what it means is asked next, outside: the read-back must not raise inside)
                error = caught
            kind = meaning(error)
            if kind == "exists":
                try:
                    return answer_lost and self._holds(path, data)
                except FileNotFoundError:  # deleted since: the name is free again
                    kind = "transient"
            if kind == "other":
                raise error
            if kind != "transient" or not wait_before_retry(attempt, stop):
                raise translate(error, f"writing {self.url_of(path)}") from error
            attempt, answer_lost = attempt + 1, True

    def _holds(self, path: str, data: bytes) -> bool:
        """Whether the object has these bytes; most others are told by their size or beginning."""
        if self.size(path) != len(data):
            return False
        look = data[:_look_bytes]
        return not data or (self.read_range(path, 0, len(look)) == look and self.read(path) == data)

    def _put(self, path: str, data: bytes) -> None:
        if self.url.startswith("memory://"):
            with _memory_lock:  # fsspec's memory store looks first and writes then
                self._fs.pipe_file(self._key(path), data, mode="create")
            return
        # S3 and GCS go multipart above the chunk size; Azure's limit is set when connecting
        azure = self.url.startswith(("az://", "abfs://", "abfss://"))
        options = {} if azure else {"chunksize": max_object_bytes + (1 << 18)}
        self._call("pipe_file", path, data, mode="create", size=len(data), **options)

    def replace(self, path: str, data: bytes) -> None:
        """Write or overwrite a page for people (a report). Never for data: that is `create`."""
        with_retries(lambda: self._call("pipe_file", path, data, size=len(data)), f"writing {self.url_of(path)}")

    def delete(self, path: str) -> None:
        """Remove an object; a missing one is fine. Only sweeps and retention use it, never a commit."""
        try:
            with_retries(lambda: self._call("rm_file", path), f"deleting {self.url_of(path)}")
        except FileNotFoundError:
            return

    def probe(self) -> None:
        """Refuse a store that lets a second create-only write of the same name through."""
        path = f"{_PROBE}{uuid.uuid4().hex}"
        try:
            first = self.create(path, b"first")
            second = self.create(path, b"second")
        finally:
            self.delete(path)
        if not first or second:
            raise StoreRefused(
                f"{self.url} let a second create-only write of the same object through, so that two runs could overwrite each other; "
                "needed: a store with conditional writes (S3 If-None-Match, GCS ifGenerationMatch, Azure ETag conditions, a local disk)"
            )


class _ReadFile(AbstractBufferedFile):  # type: ignore[misc]
    """Reads through `read_range`, so that a file has the retries, the deadline and the errors of every other read."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        self._store, self._path = store, path
        super().__init__(store._fs, store._key(path), "rb", block_size=_read_ahead_bytes, cache_type="readahead", size=size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._store.read_range(self._path, start, min(end, self.size))


class LocalStore(Store):
    """A folder. The lock is `os.link`: unlike a rename it fails when the name is taken."""

    is_local = True
    _retries_inside = False

    def _file(self, path: str) -> str:
        return os.path.join(self.url, path) if path else self.url

    def _key(self, path: str) -> str:
        return self._file(path)

    @property
    def _fs(self) -> Any:
        raise AssertionError("a local store does not go through fsspec")

    def read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        with self.open(path) as file:
            if start < 0:
                start = max(0, os.fstat(file.fileno()).st_size + start)
            file.seek(start)
            return file.read(end - start)

    def open(self, path: str) -> IO[bytes]:
        try:
            return open(self._file(path), "rb")
        except (OSError, ValueError) as error:
            raise _local(error, f"opening {self.url_of(path)}") from error

    def exists(self, path: str) -> bool:
        return os.path.exists(self._file(path))

    def size(self, path: str) -> int:
        try:
            return os.path.getsize(self._file(path))
        except (OSError, ValueError) as error:
            raise _local(error, f"looking up {self.url_of(path)}") from error

    def entry(self, path: str) -> Entry:
        try:
            return _file_entry(path, os.stat(self._file(path)))
        except (OSError, ValueError) as error:
            raise _local(error, f"looking up {self.url_of(path)}") from error

    def list(self, prefix: str = "") -> Iterator[Entry]:
        yield from self._walk(self._file(prefix.rstrip("/")), prefix.rstrip("/"), temporary=False)

    def leftovers(self) -> Iterator[Entry]:
        yield from self._walk(self.url, "", temporary=True)

    def _walk(self, folder: str, relative: str, *, temporary: bool) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as found:
                # a folder sorts as its name with a slash, so that the whole listing is in the order of full paths
                entries = sorted(found, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise translate(error, f"listing {folder}") from error
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir():
                yield from self._walk(entry.path, path, temporary=temporary)
            elif entry.name.startswith((".tmp-", _PROBE)) == temporary:
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # a dangling link, or removed while listing
                    continue
                yield _file_entry(path, stat)

    def _put(self, path: str, data: bytes) -> None:
        target = self._file(path)
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".tmp-{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK) and not os.path.exists(target):
                raise StoreRefused(
                    f"{self.url} has no hard links ({error.strerror}), and without them a write is not create-only; "
                    "needed: a disk with hard links, or an object store"
                ) from error
            raise
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        _sync_folder(folder)

    def replace(self, path: str, data: bytes) -> None:
        target = self._file(path)
        temporary = os.path.join(os.path.dirname(target), f".tmp-{uuid.uuid4().hex}")
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(temporary, "xb") as file:
                file.write(data)
            os.replace(temporary, target)
        except OSError as error:
            raise translate(error, f"writing {self.url_of(path)}") from error

    def delete(self, path: str) -> None:
        try:
            os.unlink(self._file(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate(error, f"deleting {self.url_of(path)}") from error


def _local(error: OSError | ValueError, doing: str) -> Exception:
    """A zero byte or half a character in a path is a `ValueError`: no file has that name."""
    return translate(error, doing) if isinstance(error, OSError) else FileNotFoundError(f"{doing}: no such object ({error})")


def _file_entry(path: str, stat: os.stat_result) -> Entry:
    return Entry(path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_mtime)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
