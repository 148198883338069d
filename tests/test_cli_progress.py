"""What a running stage shows: plain lines now and then, or one bar a stage."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from segtasks.cli import progress
from segtasks.cli.progress import BarProgress, PlainProgress, duration

PLAN = {"event": "plan", "stage": "infer", "units": 4, "todo": 3, "inputs": 1200}


def shard(done: int, rows: int, quarantined: int = 0) -> dict[str, Any]:
    return {"event": "shard", "stage": "infer", "done": done, "total": 4, "rows_done": rows, "rows_total": 1200, "quarantined": quarantined}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the display sees, in seconds, as the only element."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_count_only_what_this_run_did(clock: list[float]) -> None:
    stream = io.StringIO()
    show = PlainProgress(stream, interval_s=10)
    show(PLAN)
    show(shard(1, 300))  # there already when the run started
    clock[0] += 30
    show(shard(2, 600))
    clock[0] += 30
    show(shard(4, 1200, quarantined=2))
    assert stream.getvalue().splitlines() == [
        "infer: 1,200 images in 4 shards, 3 shards to make",
        "infer: 2 of 4 shards, 600 images, 10 images/s, 1 min 0 s left",
        "infer: 4 of 4 shards, 1,200 images, 15 images/s, 2 quarantined",
    ]


def test_lines_come_no_faster_than_the_interval_but_the_last_always(clock: list[float]) -> None:
    stream = io.StringIO()
    show = PlainProgress(stream, interval_s=10)
    show(PLAN)
    for done in (1, 2, 3, 4):
        clock[0] += 1
        show(shard(done, 300 * done))
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()[1:]] == ["infer: 4 of 4 shards"]


def test_training_shows_where_it_starts_and_its_epochs() -> None:
    stream = io.StringIO()
    show = PlainProgress(stream, interval_s=0)
    show({"event": "plan", "stage": "train", "epochs": 3, "ranks": 1, "data": "d@1", "done": False})
    show({"event": "start", "epochs": 3, "epochs_done": 1, "images": 1, "workers": 2, "device": "cpu", "notes": ["head starts fresh"]})
    show({"event": "epoch", "epochs": 3, "epoch": 2, "loss": 0.5, "lr": 0.1, "images_per_second": 12.34})
    show({"event": "epoch", "epochs": 3, "epoch": 3, "loss": 0.25, "val_miou": 0.75, "images_per_second": 12.34})
    assert stream.getvalue().splitlines() == [
        "train: 1 image, 3 epochs, 2 workers on cpu, goes on after epoch 1; head starts fresh",
        "train: epoch 2 of 3, loss 0.500, 12.3 images/s",
        "train: epoch 3 of 3, loss 0.250, val mIoU 0.750, 12.3 images/s",
    ]


def test_retries_and_logs_are_shown_at_once_and_unknown_events_not_at_all(clock: list[float]) -> None:
    stream = io.StringIO()
    show = PlainProgress(stream, interval_s=1000)
    show({"event": "retry", "stage": "infer", "unit": "abc", "error": "disk full"})
    show({"event": "log", "stage": "infer", "message": "three masks have no image"})
    show({"event": "something new", "stage": "infer"})
    assert stream.getvalue().splitlines() == ["infer: shard abc is tried again: disk full", "infer: three masks have no image"]


def test_a_terminal_gets_one_bar_a_stage_with_rate_and_quarantine(clock: list[float]) -> None:
    stream = io.StringIO()
    with BarProgress(Console(file=stream, force_terminal=True, width=160, color_system=None)) as show:
        show(PLAN)
        show(shard(1, 300))
        clock[0] += 30
        show(shard(2, 600, quarantined=3))
        show({"event": "log", "stage": "infer", "message": "[red]not markup[/red]"})
        show({"event": "start", "epochs": 3, "epochs_done": 0, "images": 8, "workers": 1, "device": "cpu"})
        show({"event": "epoch", "epochs": 3, "epoch": 2, "loss": 0.5})
    text = stream.getvalue()
    assert "600/1200" in text
    assert "10 images/s  3 quarantined" in text
    assert "infer: [red]not markup[/red]" in text
    assert "2/3" in text
    assert "loss 0.500" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_read_like_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
