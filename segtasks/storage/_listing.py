"""Listings of buckets, a page at a time: memory is flat in the number of keys, where fsspec's `find` holds 1.2 kB for each.

Not every store lists by code point. AWS and GCS do, and their pages are handed on as they come. SeaweedFS, and Azure with a hierarchical
namespace, list a folder before its neighbour `folder-2`; Azure otherwise lists by UTF-16, AWS' directory buckets in no order. What they
or a server not known list in more than one page is sorted on disk first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from fsspec.asyn import sync

from segtasks.errors import StorageError, StoreRefused
from segtasks.storage import _faults
from segtasks.storage._clients import call
from segtasks.storage._entries import Entry, entry_of
from segtasks.storage._faults import seconds_for, with_retries

keys_a_page: int | None = None  # none: the store's own limit, 1,000 (S3, GCS) or 5,000 (Azure)
_page_bytes = 5 << 20
_orderly_servers = {"AmazonS3", "amazon.com"}  # as AWS and moto call themselves
_directory_buckets = ("--x-s3", "--xa-s3")
_GCS_FIELDS = "nextPageToken,items(name,size,etag,generation,updated)"


@dataclass(frozen=True)
class Folder:
    """What is listed. `above` is how much of a key is not part of the path."""

    client: Any
    bucket: str
    prefix: str
    above: int

    def entries(self, found: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Entry]:
        """Without the markers of folders."""
        return [entry_of(key[self.above :], info) for key, info in found if not key.endswith("/")]


@dataclass(frozen=True)
class Page:
    entries: list[Entry]
    after: str  # what the next page is asked for with; empty: this is the last
    orderly: bool  # the store lists by code point


def list_bucket(client: Any, protocol: str, root: str, path: str, doing: str) -> Iterator[Entry] | None:
    """Every object under the folder `path` of `root` (bucket and key), sorted by path; None where there are no pages to ask for."""
    ask = _ASK.get(protocol)
    if ask is None:
        return None
    bucket, key, *_ = client.split_path(root)
    above = f"{key}/" if key else ""
    folder = Folder(client, bucket, f"{above}{path}/" if path else above, len(above))
    return _in_order(_pages(ask, folder, doing), doing)


def _pages(ask: Callable[[Folder, str, float], Page], folder: Folder, doing: str) -> Iterator[Page]:
    """Each page is tried again by itself and has its own deadline."""
    after = ""

    def once() -> Page:
        return ask(folder, after, _faults.attempt_seconds + seconds_for(_page_bytes))

    while True:
        try:
            page = with_retries(once, doing)
        except FileNotFoundError as error:  # a missing folder is an empty page
            raise StoreRefused(f"{doing}: the bucket does not exist; check the URL and the endpoint, or create the bucket") from error
        yield page
        if not page.after:
            return
        if page.after == after:
            raise StorageError(f"{doing}: the store answers with the same page again; run again")
        after = page.after


def _in_order(pages: Iterator[Page], doing: str) -> Iterator[Entry]:
    first = next(pages)
    if not first.after:
        yield from sorted(first.entries, key=lambda entry: entry.path)
    elif first.orderly and all(one.path < other.path for one, other in pairwise(first.entries)):
        last = ""
        for page in chain([first], pages):
            for entry in page.entries:
                if entry.path <= last:
                    raise StorageError(f"{doing}: {entry.path!r} came after {last!r}; needed: a store that lists in the order of names")
                last = entry.path
                yield entry
    else:
        yield from _sorted_on_disk(chain([first], pages), doing)


def _sorted_on_disk(pages: Iterable[Page], doing: str) -> Iterator[Entry]:
    try:
        # a database without a name is a temporary file; the generator may be ended by another thread
        with closing(sqlite3.connect("", check_same_thread=False)) as table:
            table.execute("PRAGMA journal_mode = OFF")
            table.execute("CREATE TABLE found (path TEXT PRIMARY KEY, size INTEGER, version TEXT, modified REAL) WITHOUT ROWID")
            for page in pages:
                rows = ((entry.path, entry.size, entry.version, entry.modified) for entry in page.entries)
                table.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?)", rows)
            for row in table.execute("SELECT path, size, version, modified FROM found ORDER BY path"):  # by UTF-8, which is by code point
                yield Entry(*row)
    except sqlite3.Error as error:
        raise StorageError(
            f"{doing}: sorting on disk failed ({error}); make room in the folder that TMPDIR names, and run again"
        ) from error


def _s3(folder: Folder, after: str, seconds: float) -> Page:
    options: dict[str, Any] = {"MaxKeys": keys_a_page} if keys_a_page else {}
    if after:
        options["ContinuationToken"] = after
    answer = call(folder.client, "call_s3", "list_objects_v2", Bucket=folder.bucket, Prefix=folder.prefix, seconds=seconds, **options)
    found = ((one["Key"], {**one, "size": one["Size"]}) for one in answer.get("Contents", ()))
    server = answer["ResponseMetadata"]["HTTPHeaders"].get("server")
    orderly = server in _orderly_servers and not folder.bucket.endswith(_directory_buckets)
    return Page(folder.entries(found), answer["NextContinuationToken"] if answer.get("IsTruncated") else "", orderly)


def _gcs(folder: Folder, after: str, seconds: float) -> Page:
    options = {"prefix": folder.prefix or None, "pageToken": after or None, "maxResults": keys_a_page}
    answer = call(folder.client, "call", "GET", "b/{}/o", folder.bucket, json_out=True, fields=_GCS_FIELDS, seconds=seconds, **options)
    return Page(folder.entries((one["name"], one) for one in answer.get("items", ())), answer.get("nextPageToken", ""), orderly=True)


def _azure(folder: Folder, after: str, seconds: float) -> Page:
    blobs, after = sync(folder.client.loop, _blobs, folder, after, timeout=seconds)
    found = (
        (blob.name, {"etag": blob.etag, "last_modified": blob.last_modified, "size": blob.size})
        for blob in blobs
        if "true" not in {(blob.metadata or {}).get(name) for name in _AZURE_FOLDER}
    )
    return Page(folder.entries(found), after, orderly=False)


async def _blobs(folder: Folder, after: str) -> tuple[list[Any], str]:
    container = folder.client.service_client.get_container_client(folder.bucket)
    blobs = container.list_blobs(name_starts_with=folder.prefix or None, include=["metadata"], results_per_page=keys_a_page)
    pages = blobs.by_page(after or None)
    return [blob async for blob in await anext(pages)], pages.continuation_token or ""


_AZURE_FOLDER = ("is_directory", "hdi_isfolder", "Hdi_isfolder")  # metadata of a blob that stands for a folder
_ASK = {"s3": _s3, "s3a": _s3, "gs": _gcs, "gcs": _gcs, "az": _azure, "abfs": _azure, "abfss": _azure}
