"""Listings of buckets in pages of three keys: what fsspec's `find` says, in order, whatever order the store lists in."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtasks.errors import StorageError, StoreRefused
from segtasks.storage import Entry, Store, open_store
from segtasks.storage import _faults as faults
from segtasks.storage import _listing as module
from segtasks.storage._entries import entry_of
from tests.servers.proxy import Fault, Proxy
from tests.servers.stores import Site

slow = pytest.mark.slow
BUCKETS = ["s3", *(pytest.param(name, marks=slow) for name in ("seaweed_site", "azure_site", "gcs_site"))]
KEYS = [
    *("A", "Z/1", "a b/c d", "a c", "a!", "a#y", "a%2Fb", "a%41", "a+b", "a-b/x", "a.txt", "a/ ", "a/1", "a/2", "a/b-c/1", "a/b/c"),
    *("a/b.c/d", "a/\U0001f600", "a/\uffee", "a=1&b=2/p", "a?x", "aB", "ab/x", "~", "é/1", "日本/画.png", "\uffee", "\U0001f600/1"),
]
NEXT_PAGE = {"continuation-token", "marker", "pageToken"}  # as S3, Azure and GCS call it


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    if request.param == "local":
        return Site(str(tmp_path / "root"))
    if request.param == "memory":
        return Site(f"memory://{uuid.uuid4().hex}")
    if request.param == "s3":
        return Site(*request.getfixturevalue("s3_bucket"))
    found: Site = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True)
def pages_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "keys_a_page", 3)


def filled(url: str, storage: dict[str, dict[str, Any]], keys: list[str] = KEYS) -> Store:
    store = open_store(f"{url}/root", storage)
    for key in keys:
        assert store.create(key, key.encode())
    return store


def behind(site: Site, choose: Callable[[str, str, float], Fault], monkeypatch: pytest.MonkeyPatch) -> tuple[Proxy, Callable[[], Store]]:
    """A proxy in front of the site's server, and the store through it; clients do not try again by themselves."""
    options = dict(next(iter(site.storage.values()), {}))
    connection = site.environment.get("AZURE_STORAGE_CONNECTION_STRING", "")
    upstream = options.get("endpoint_url") or connection.partition("BlobEndpoint=")[2].partition("/devstoreaccount1;")[0]
    proxy = Proxy(upstream, choose)

    def open_it() -> Store:
        if connection:
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection.replace(upstream, proxy.url))
            return open_store(f"{site.url}/root", {site.url: {"skip_instance_cache": True}})  # clients are kept by options
        once = {"config_kwargs": {"retries": {"total_max_attempts": 1}}} if site.url.startswith("s3://") else {}
        return open_store(f"{site.url}/root", {site.url: {**options, "endpoint_url": proxy.url, **once}})

    return proxy, open_it


def is_page(path: str) -> bool:
    query = parse_qs(urlsplit(path).query)
    return "prefix" in query and "root" not in urlsplit(path).path


def is_later_page(path: str) -> bool:
    return is_page(path) and not NEXT_PAGE.isdisjoint(parse_qs(urlsplit(path).query))


@pytest.mark.parametrize("site", ["local", "memory", *BUCKETS], indirect=True)
def test_every_key_is_listed_once_in_the_order_of_code_points(site: Site) -> None:
    store = filled(site.url, site.storage)
    listed = list(store.list())
    assert [entry.path for entry in listed] == sorted(KEYS)
    assert [entry.size for entry in listed] == [len(entry.path.encode()) for entry in listed]
    assert all(abs(entry.modified - time.time()) < 600 for entry in listed)
    for entry in listed:
        looked_up = store.entry(entry.path)
        assert (looked_up.size, looked_up.version) == (entry.size, entry.version)
    assert [entry.path for entry in open_store(site.url, site.storage).list()] == [f"root/{key}" for key in sorted(KEYS)]


@pytest.mark.parametrize("site", ["local", "memory", *BUCKETS], indirect=True)
def test_a_folder_is_not_the_beginning_of_a_name(site: Site) -> None:
    store = filled(site.url, site.storage)
    for folder in ("a", "a/", "a/b", "a b", "日本", "a=1&b=2"):
        inside = sorted(key for key in KEYS if key.startswith(f"{folder.rstrip('/')}/"))
        assert inside
        assert [entry.path for entry in store.list(folder)] == inside
        assert [f"{folder.rstrip('/')}/{entry.path}" for entry in store.child(folder).list()] == inside
    assert list(store.list("a.txt")) == list(store.list("a/b/c/d")) == list(store.list("nothing")) == []


@pytest.mark.parametrize("site", BUCKETS, indirect=True)
def test_entries_are_those_of_fsspecs_find(site: Site) -> None:
    store = filled(site.url, site.storage)
    found = store._fs.find(store._key(""), detail=True)
    assert list(store.list()) == [entry_of(key.removeprefix(f"{store._key('')}/"), found[key]) for key in sorted(found)]


@pytest.mark.parametrize("site", ["s3", pytest.param("azure_site", marks=slow)], indirect=True)
def test_an_object_beside_a_folder_and_a_marker_of_its_name(site: Site) -> None:
    """Where keys are only names; the other stores keep folders."""
    store = filled(site.url, site.storage, ["a", "a-b/x", "a/x", "ab"])
    for folder in ("a", "empty"):
        store._fs.pipe_file(f"{store._key(folder)}/", b"")
    assert [entry.path for entry in store.list()] == ["a", "a-b/x", "a/x", "ab"]
    assert [entry.path for entry in store.list("a")] == ["a/x"]
    assert list(store.list("empty")) == []
    assert [entry.path for entry in store.list("empty/")] == []


@slow
def test_azures_folders_are_told_by_their_metadata(azure_site: Site) -> None:
    from azure.storage.blob import BlobServiceClient

    store = filled(azure_site.url, azure_site.storage, ["a/x", "b"])
    container, _, key = store._key("a").partition("/")
    with BlobServiceClient.from_connection_string(azure_site.environment["AZURE_STORAGE_CONNECTION_STRING"]) as client:
        client.get_blob_client(container, key).upload_blob(b"", metadata={"hdi_isfolder": "true"})
    assert [entry.path for entry in store.list()] == ["a/x", "b"]


@pytest.mark.parametrize("site", BUCKETS, indirect=True)
def test_a_page_that_fails_is_asked_for_again_and_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(site.url, site.storage)
    faulty: Iterator[Fault] = iter(["500", "lost", "truncated", "503"])
    asked: list[str] = []

    def choose(method: str, path: str, draw: float) -> Fault:
        if is_page(path):
            asked.append(path)
        return next(faulty, "passed") if is_later_page(path) else "passed"

    proxy, open_it = behind(site, choose, monkeypatch)
    with proxy.running():
        assert [entry.path for entry in open_it().list()] == sorted(KEYS)
    times = Counter(asked)
    assert len(times) == -(-len(KEYS) // 3)
    assert [times[path] for path in times] == [1, 5, *[1] * (len(times) - 2)]


@pytest.mark.parametrize("site", BUCKETS, indirect=True)
def test_a_page_that_is_not_answered_has_its_own_deadline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(site.url, site.storage)
    hanging: Iterator[Fault] = iter(["hang", "passed", "hang"])
    monkeypatch.setattr(faults, "attempt_seconds", 0.5)
    monkeypatch.setattr(module, "_page_bytes", 0)

    def choose(method: str, path: str, draw: float) -> Fault:
        return next(hanging, "passed") if is_later_page(path) else "passed"

    proxy, open_it = behind(site, choose, monkeypatch)
    with proxy.running():
        assert [entry.path for entry in open_it().list()] == sorted(KEYS)
    assert proxy.faults["hang"] == 2


@pytest.mark.parametrize("site", BUCKETS, indirect=True)
def test_a_later_page_that_is_denied_is_refused_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(site.url, site.storage)
    proxy, open_it = behind(site, lambda method, path, draw: "403" if is_later_page(path) else "passed", monkeypatch)
    with proxy.running():
        listing = open_it().list()
        with pytest.raises(StoreRefused, match=r"listing .*/root: access denied"):
            list(listing)
    assert proxy.faults["403"] == 1


def test_only_the_pages_that_are_looked_at_are_asked_for(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(*s3_bucket)
    pages: list[str] = []

    def choose(method: str, path: str, draw: float) -> Fault:
        pages.extend([path] if is_page(path) else [])
        return "passed"

    proxy, open_it = behind(Site(*s3_bucket), choose, monkeypatch)
    with proxy.running():
        listing = open_it().list()
        assert [entry.path for entry in islice(listing, 3)] == sorted(KEYS)[:3]
        assert len(pages) == 1
        next(listing)
        assert len(pages) == 2
        listing.close()  # type: ignore[attr-defined]


def test_fsspecs_cache_of_listings_stays_empty(s3_bucket: Any) -> None:
    store = filled(s3_bucket[0], {"s3://": {**s3_bucket[1]["s3://"], "use_listings_cache": True}})
    assert len(list(store.list())) == len(KEYS)
    assert len(store._fs.dircache) == 0


def test_threads_list_at_once_and_take_turns_with_one_listing(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(*s3_bucket)
    with ThreadPoolExecutor(4) as threads:
        assert all(list(found) == list(store.list()) for found in threads.map(lambda _: list(store.list()), range(4)))
    monkeypatch.setattr(module, "_orderly_servers", set())
    listing, taken = store.list(), list[str]()
    for _ in KEYS:
        thread = threading.Thread(target=lambda: taken.append(next(listing).path))
        thread.start()
        thread.join()
    assert taken == sorted(KEYS)


@pytest.mark.parametrize("site", BUCKETS, indirect=True)
def test_a_bucket_that_is_not_there_is_not_an_empty_one(site: Site) -> None:
    store = open_store(f"{site.url}-of-nobody/x", {f"{site.url}-of-nobody": next(iter(site.storage.values()), {})})
    with pytest.raises(StoreRefused, match="the bucket does not exist"):
        list(store.list())


def pages_of(lots: list[list[str]], *, orderly: bool) -> Iterator[module.Page]:
    for number, lot in enumerate(lots):
        entries = [Entry(path, len(path), f"v{path}", 0.5) for path in lot]
        yield module.Page(entries, after=f"{number}" if number < len(lots) - 1 else "", orderly=orderly)


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)), min_size=1))
def test_pages_in_any_order_are_sorted_by_code_point(lots: list[list[str]]) -> None:
    found = list(module._in_order(pages_of(lots, orderly=False), "listing"))
    assert [entry.path for entry in found] == (sorted({path for lot in lots for path in lot}) if len(lots) > 1 else sorted(lots[0]))
    assert all(entry == Entry(entry.path, len(entry.path), f"v{entry.path}", 0.5) for entry in found)


def test_a_store_that_is_known_to_list_in_order_and_does_not() -> None:
    """Seen on the first page nothing is lost; later, what was handed on cannot be taken back."""
    early, late = [["b", "a"], ["c"]], [["b", "c"], ["a"]]
    assert [entry.path for entry in module._in_order(pages_of(early, orderly=True), "listing x")] == ["a", "b", "c"]
    listing = module._in_order(pages_of(late, orderly=True), "listing x")
    assert [next(listing).path, next(listing).path] == ["b", "c"]
    with pytest.raises(StorageError, match="listing x: 'a' came after 'c'; needed: a store that lists in the order of names"):
        next(listing)


def test_a_listing_that_is_left_early_closes_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *arguments, **options: opened.append(connect(*arguments, **options)) or opened[-1])
    listing = module._in_order(pages_of([["b"], ["a"], ["c"]], orderly=False), "listing")
    assert next(listing).path == "a"
    listing.close()  # type: ignore[attr-defined]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_a_full_disk_while_sorting_says_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.raises(StorageError, match=r"listing x: sorting on disk failed \(database or disk is full\); make room in .* TMPDIR"):
        list(module._in_order(pages_of([["b"], ["a"]], orderly=False), "listing x"))


def test_a_store_that_gives_the_same_page_for_ever_is_found_out() -> None:
    def same(folder: module.Folder, after: str, seconds: float) -> module.Page:
        return module.Page([Entry("a", 1, "1")], "again", orderly=False)

    with pytest.raises(StorageError, match="the same page again"):
        list(module._pages(same, module.Folder(None, "bucket", "", 0), "listing x"))
