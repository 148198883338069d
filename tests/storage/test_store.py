"""Every store: create-only writes, lists in order, clear errors. S3 is moto's server on 127.0.0.1; the slow ones are real servers."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path

import pytest

from segtasks.errors import ConfigError, StorageError, StoreRefused
from segtasks.storage import Store, open_store
from segtasks.storage import _faults as faults
from segtasks.storage import _store as module

slow = pytest.mark.slow


@pytest.fixture(params=["local", "memory", "s3", *(pytest.param(name, marks=slow) for name in ("seaweed_site", "azure_site", "gcs_site"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "root"))
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}")
    if request.param.endswith("_site"):
        site = request.getfixturevalue(request.param)
        return open_store(f"{site.url}/{uuid.uuid4().hex}", site.storage)
    bucket, storage = request.getfixturevalue("s3_bucket")
    return open_store(f"{bucket}/{uuid.uuid4().hex}", storage)


def test_the_second_create_of_a_name_changes_nothing(store: Store) -> None:
    assert store.create("a/b.bin", b"first") is True
    assert store.create("a/b.bin", b"second") is False
    assert store.read("a/b.bin") == b"first"


def test_a_range_and_a_tail_are_read(store: Store) -> None:
    store.create("x", b"0123456789")
    assert store.read_range("x", 2, 5) == b"234"
    assert store.size("x") == 10
    with store.open("x") as file:
        file.seek(8)
        assert file.read() == b"89"


def test_a_listing_is_recursive_sorted_by_path_and_relative(store: Store) -> None:
    for path in ("b/2", "b.txt", "b/1/z", "a", "b-c"):
        store.create(path, path.encode())
    assert [entry.path for entry in store.list()] == ["a", "b-c", "b.txt", "b/1/z", "b/2"]
    assert [(entry.path, entry.size) for entry in store.list("b")] == [("b/1/z", 5), ("b/2", 3)]
    assert list(store.list("nothing")) == []


def test_the_listed_version_changes_with_the_content(store: Store) -> None:
    store.create("x", b"one")
    before = next(store.list()).version
    store.replace("x", b"two!")
    assert next(store.list()).version != before


@pytest.mark.parametrize("name", ["a\0b.png", "a" * 5000 + ".png", "half a letter \ud800.png"])
def test_a_name_that_no_object_can_have_is_file_not_found(store: Store, name: str) -> None:
    store.create("a", b"1")
    for ask in (store.read, store.size, store.entry, store.open, lambda name: store.read_range(name, 0, 1)):
        with pytest.raises(FileNotFoundError):
            ask(name)


def test_a_missing_object_is_file_not_found_and_deleting_it_is_fine(store: Store) -> None:
    for read in (store.read, store.open, store.size):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    assert not store.exists("nothing")
    store.delete("nothing")


def test_the_probe_leaves_nothing_behind(store: Store) -> None:
    store.probe()
    assert list(store.list()) == []


def test_a_store_travels_to_another_process(store: Store) -> None:
    store.create("x", b"1")
    there = pickle.loads(pickle.dumps(store))
    assert there.url == store.url
    assert there.child("deep").url == store.url + "/deep"
    assert there.read("x") == b"1"


def test_a_store_that_lets_the_second_create_through_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    monkeypatch.setattr(type(store), "_put", type(store).replace)  # a store that ignores the condition
    with pytest.raises(StoreRefused, match="second create-only write"):
        store.probe()


def test_a_lost_answer_is_resolved_by_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    put = type(store)._put
    calls = []

    def lossy(self: Store, path: str, data: bytes) -> None:
        calls.append(path)
        put(self, path, data)
        if len(calls) == 1:
            raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(type(store), "_put", lossy)
    assert store.create("x", b"mine") is True
    assert len(calls) == 2
    assert store.create("x", b"other") is False


def test_weather_ends_in_a_clear_error_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))

    def broken(self: Store, path: str, data: bytes) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(type(store), "_put", broken)
    monkeypatch.setattr(faults, "deadline_seconds", 0.3)
    monkeypatch.setattr(faults, "attempt_seconds", 0.1)
    with pytest.raises(StorageError, match=r"writing .*/x: ConnectionResetError: gone; run again"):
        store.create("x", b"1")


def test_denied_is_the_users_to_mend_and_is_not_retried() -> None:
    calls = []

    def denied() -> None:
        calls.append(1)
        raise PermissionError("no")

    with pytest.raises(StoreRefused, match="access denied"):
        faults.with_retries(denied, "reading x")
    assert len(calls) == 1


def test_an_object_above_the_cap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "max_object_bytes", 10)
    with pytest.raises(StorageError, match="make shards smaller"):
        open_store(str(tmp_path)).create("x", b"12345678901")


@pytest.mark.parametrize(
    ("url", "storage", "message"),
    [
        ("s3://user:hunter2@bucket/x", {}, "holds a user or password"),
        ("s3://bucket/x", {"s3://bucket": {"secret": "hunter2"}}, "looks like a secret"),
        ("s3://bucket/x", {"s3://": {"client_kwargs": {"aws_secret_access_key": "hunter2"}}}, "looks like a secret"),
        ("ftpp://x/y", {}, "unknown protocol"),
    ],
)
def test_secrets_and_unknown_protocols_are_refused_without_repeating_the_secret(
    url: str, storage: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(url, storage)
    assert "hunter2" not in str(caught.value)
