"""One run at a time on an output, against a real server."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from flows import _turn
from flows._names import tail
from flows._turn import limit_name, turn
from flows.ingest import ingest
from segtasks.errors import ConfigError


def until(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_output_has_one_name_however_its_url_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len({limit_name(url) for url in ("out/masks", str(tmp_path / "out" / "masks"), f"file://{tmp_path}/out/masks")}) == 1
    assert limit_name("s3://a/out/masks") != limit_name("s3://b/out/masks")
    assert limit_name("s3://a/out/mäsks").startswith("segtasks out-m-sks ")  # Prefect refuses some characters


def test_a_second_run_on_an_output_waits_until_the_first_has_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segtasks.turn")
    order: list[str] = []

    def second() -> None:
        with turn(str(tmp_path / "out")):
            order.append("second")

    with turn(str(tmp_path / "out")):
        thread = threading.Thread(target=copy_context().run, args=(second,))
        thread.start()
        until(lambda: any("waits for another run on" in line for line in caplog.messages))
        with turn(str(tmp_path / "other")):  # another output has a turn of its own
            order.append("other")
        order.append("first")
    thread.join(60)
    assert order == ["other", "first", "second"]


def limits() -> dict[str, Any]:
    """Turns that are taken, and when they were renewed."""
    with get_client(sync_client=True) as client:
        return {limit.name: limit.updated for limit in client.read_global_concurrency_limits(limit=200)}


def test_a_turn_is_renewed_as_long_as_it_is_held_and_then_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_turn, "renew_every_s", 0.1)
    name = limit_name(str(tmp_path / "out"))
    seen = set()
    with turn(str(tmp_path / "out")):
        until(lambda: seen.add(limits()[name]) or len(seen) > 3)  # type: ignore[func-returns-value]
    assert name not in limits()


def test_a_run_that_fails_gives_its_turn_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="planted"), turn(str(tmp_path / "out")):
        raise KeyError("planted")
    assert limit_name(str(tmp_path / "out")) not in limits()


def test_a_turn_that_nobody_renews_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segtasks.turn")
    monkeypatch.setattr(_turn, "lease_s", 0.5)
    with get_client(sync_client=True) as client:  # as a run leaves it that is killed
        dead = GlobalConcurrencyLimitCreate(name=limit_name(str(tmp_path / "out")), limit=1, active_slots=1)
        client.create_global_concurrency_limit(dead)
    with turn(str(tmp_path / "out")):
        assert any("has not been heard of" in line for line in caplog.messages)
    assert dead.name not in limits()


@pytest.mark.parametrize("url", ["s3://tail:secret@bucket/data", "s3://tail:secret@bucket", "s3://bucket/data/"])
def test_a_password_in_a_url_is_not_part_of_names(url: str) -> None:
    assert "secret" not in tail(url)
    assert "bucket" in tail(url) or "data" in tail(url)


@pytest.mark.parametrize("field", ["source", "output"])
def test_a_password_in_a_parameter_fails_the_run_and_is_repeated_nowhere(field: str, tmp_path: Path) -> None:
    urls = {"source": str(tmp_path / "in"), "output": str(tmp_path / "out"), field: "s3://anna:hunter2@bucket/street"}
    with pytest.raises(ConfigError, match="holds a user or password") as raised:
        ingest({**urls, "format": "folder", "engine": {"name": "local", "workers": 0}})  # type: ignore[arg-type]
    assert "hunter2" not in str(raised.value)
    with get_client(sync_client=True) as client:
        run = max(client.read_flow_runs(), key=lambda run: run.created)
        assert run.state is not None
        assert run.state.is_failed()
        assert "holds a user or password" in str(run.state.message)
        stored = [client.request("POST", f"/{kind}/filter", json={}).text for kind in ("logs", "artifacts", "task_runs")]
    assert "hunter2" not in " ".join([run.name, str(run.state.message), *stored, *limits()])
