"""A store behind a proxy that answers wrongly: calls are tried again, end in time, and say what to do."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from segtasks.errors import StorageError, StoreRefused
from segtasks.storage import Store, open_store
from segtasks.storage import _faults as faults
from tests.servers.proxy import Fault, Proxy, some

Bucket = tuple[str, dict[str, dict[str, Any]]]


def behind(proxy: Proxy, bucket: Bucket, **options: Any) -> Store:
    return open_store(f"{bucket[0]}/weather", {"s3://": {"endpoint_url": proxy.url, **options}})


def direct(bucket: Bucket) -> Store:
    return open_store(f"{bucket[0]}/weather", bucket[1])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thirtieth of every limit."""
    monkeypatch.setattr(faults, "deadline_seconds", 2.0)
    monkeypatch.setattr(faults, "attempt_seconds", 0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_third_of_calls_failing_in_every_way_changes_nothing(
    s3_bucket: Bucket, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "attempt_seconds", 0.5)
    with Proxy(s3_endpoint, some(0.3), seed=5).running() as proxy:
        store = behind(proxy, s3_bucket, config_kwargs={"retries": {"total_max_attempts": 1}, "read_timeout": 0.5})
        for number in range(20):
            assert store.create(f"o/{number:02d}", b"%d mine" % number * 50)
            assert not store.create(f"o/{number:02d}", b"%d theirs" % number * 50)
            assert store.read(f"o/{number:02d}") == b"%d mine" % number * 50
            assert store.read_range(f"o/{number:02d}", 2, 6) == (b"%d mine" % number * 50)[2:6]
            with store.open(f"o/{number:02d}") as file:
                assert file.read() == b"%d mine" % number * 50
        assert [entry.path for entry in store.list("o")] == [f"o/{number:02d}" for number in range(20)]
    assert set(proxy.created().values()) == {1}
    assert all(proxy.faults[fault] > 0 for fault in ("500", "503", "hang", "truncated", "lost", "lost 500")), proxy.faults


@pytest.mark.parametrize("fault", ["lost", "lost 500"])
def test_a_write_whose_answer_is_lost_is_known_to_be_ours(s3_bucket: Bucket, s3_endpoint: str, fault: Fault) -> None:
    """Also where the client tries again by itself and finds its own object in the way."""
    lost = iter([fault])

    def choose(method: str, path: str, draw: float) -> Fault:
        return next(lost, "passed") if method == "PUT" else "passed"

    with Proxy(s3_endpoint, choose).running() as proxy:
        store = behind(proxy, s3_bucket)
        assert store.create("x", b"mine") is True
        assert store.create("x", b"not!") is False
    assert Counter(status for method, _, status in proxy.done if method == "PUT") == {200: 1, 412: 2}


def test_when_every_call_fails_each_ends_in_a_storage_error_that_says_run_again(s3_bucket: Bucket, s3_endpoint: str, quick: None) -> None:
    with Proxy(s3_endpoint, some(1.0, ("500", "503", "lost"))).running() as proxy:
        store = behind(proxy, s3_bucket)
        for call in (lambda: store.create("x", b"1"), lambda: store.read("x"), lambda: store.size("x"), lambda: list(store.list())):
            started = time.monotonic()
            with pytest.raises(StorageError, match="run again, finished shards are kept"):
                call()
            assert time.monotonic() - started < 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_accepts_and_never_answers_ends_each_call_within_a_minute(s3_bucket: Bucket, s3_endpoint: str) -> None:
    with Proxy(s3_endpoint, some(1.0, ("hang",))).running() as proxy:
        store = behind(proxy, s3_bucket)
        started = time.monotonic()
        with pytest.raises(StorageError, match="run again"):
            store.create("x", b"1")
        assert 30 < time.monotonic() - started < 62


def test_denied_reads_are_refused_at_once_and_say_whose_matter_it_is(s3_bucket: Bucket, s3_endpoint: str) -> None:
    direct(s3_bucket).create("x", b"1")
    with Proxy(s3_endpoint, some(1.0, ("403",))).running() as proxy:
        store = behind(proxy, s3_bucket)
        started = time.monotonic()
        for call in (lambda: store.read("x"), lambda: store.open("x"), lambda: store.exists("x"), lambda: list(store.list())):
            with pytest.raises(StoreRefused, match="access denied"):
                call()
        assert time.monotonic() - started < 5


def test_a_missing_bucket_is_named_as_such(s3_bucket: Bucket) -> None:
    store = open_store("s3://no-such-bucket-of-ours/x", s3_bucket[1])
    for call in (lambda: store.create("x", b"1"), lambda: store.read("x"), lambda: list(store.list()), store.probe):
        with pytest.raises(StoreRefused, match="the bucket does not exist"):
            call()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wrong_credentials_are_named_as_such(seaweed_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(
        f"{seaweed_site.url}/x", {"s3://": {**seaweed_site.storage[seaweed_site.url], "client_kwargs": {"region_name": "eu-west-1"}}}
    )
    for call in (lambda: store.create("x", b"1"), lambda: store.read("x"), lambda: list(store.list())):
        with pytest.raises(StoreRefused, match=r"access denied .* check the credentials in the environment"):
            call()
