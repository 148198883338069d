"""Progress on standard error: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from segtasks.cli.outcome import counted

plain_interval_s = 10.0


class Rate:
    """Images a second since the stage started; what was there before does not count."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def update(self, rows_done: int) -> float | None:
        now = time.monotonic()
        if self._start is None:
            self._start = (now, rows_done)
            return None
        seconds, rows = now - self._start[0], rows_done - self._start[1]
        return rows / seconds if rows > 0 and seconds > 0 else None


def seconds_left(event: dict[str, Any], rate: float | None) -> float | None:
    return (event["rows_total"] - event["rows_done"]) / rate if rate else None


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def numbers(event: dict[str, Any]) -> str:
    """`loss 0.412, val mIoU 0.701, 35 images/s` of an epoch event."""
    shown = (("loss", "loss {:.3f}"), ("val_miou", "val mIoU {:.3f}"), ("images_per_second", "{:.3g} images/s"))
    return ", ".join(text.format(event[key]) for key, text in shown if key in event)


class PlainProgress(AbstractContextManager["PlainProgress"]):
    """One line now and then; the first and the last are always shown."""

    def __init__(self, stream: IO[str] | None = None, interval_s: float = plain_interval_s) -> None:
        self._stream, self._interval_s, self._last = stream or sys.stderr, interval_s, 0.0
        self._rate = Rate()

    def __call__(self, event: dict[str, Any]) -> None:
        line = self._line(event)
        now = time.monotonic()
        urgent = event["event"] not in ("shard", "epoch") or finished(event)
        if line and (urgent or now - self._last >= self._interval_s):
            self._last = now
            self._stream.write(line + "\n")
            self._stream.flush()

    def _line(self, event: dict[str, Any]) -> str:
        stage = event.get("stage", "train")
        match event["event"]:
            case "plan" if "inputs" in event:
                self._rate = Rate()
                inputs, units, todo = counted(event["inputs"], "image"), counted(event["units"], "shard"), counted(event["todo"], "shard")
                return f"{stage}: {inputs} in {units}, {todo} to make"
            case "shard":
                rate = self._rate.update(event["rows_done"])
                left = seconds_left(event, rate)
                speed = f", {rate:.3g} images/s" + (f", {duration(left)} left" if left else "") if rate else ""
                bad = f", {event['quarantined']:,} quarantined" if event["quarantined"] else ""
                shards, images = counted(event["total"], "shard"), counted(event["rows_done"], "image")
                return f"{stage}: {event['done']:,} of {shards}, {images}{speed}{bad}"
            case "start":
                return f"{stage}: " + started(event)
            case "epoch":
                return f"{stage}: epoch {event['epoch']} of {event['epochs']}, {numbers(event)}"
            case "retry":
                return f"{stage}: shard {event['unit']} is tried again: {event['error']}"
            case "log":
                return f"{stage}: {event['message']}"
            case _:
                return ""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class BarProgress(AbstractContextManager["BarProgress"]):
    """One bar a stage."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._rate = Rate()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        stage = event.get("stage", "train")
        match event["event"]:
            case "plan" if "inputs" in event:
                self._rate = Rate()
                self._bar(stage, event["inputs"], "images")
            case "shard":
                rate = self._rate.update(event["rows_done"])
                bad = f"  {event['quarantined']:,} quarantined" if event["quarantined"] else ""
                task = self._bar(stage, event["rows_total"], "images")
                self._bars.update(task, completed=event["rows_done"], note=(f"{rate:.3g} images/s" if rate else "") + bad)
            case "start":
                task = self._bar(stage, event["epochs"], "epochs")
                self._bars.update(task, completed=event["epochs_done"])
                self._bars.console.print(f"{stage}: {started(event)}", highlight=False)
            case "epoch":
                task = self._bar(stage, event["epochs"], "epochs")
                self._bars.update(task, completed=event["epoch"], note=numbers(event))
            case "retry":
                self._bars.console.print(f"{stage}: shard {event['unit']} is tried again: {event['error']}", markup=False)
            case "log":
                self._bars.console.print(f"{stage}: {event['message']}", markup=False)

    def _bar(self, stage: str, total: int, unit: str) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, unit=unit, note="")
        return self._tasks[stage]


def started(event: dict[str, Any]) -> str:
    resumed = f", goes on after epoch {event['epochs_done']}" if event["epochs_done"] else ""
    notes = "".join(f"; {note}" for note in event.get("notes", ()))
    images, epochs, workers = counted(event["images"], "image"), counted(event["epochs"], "epoch"), counted(event["workers"], "worker")
    return f"{images}, {epochs}, {workers} on {event['device']}{resumed}{notes}"


def finished(event: dict[str, Any]) -> bool:
    if event["event"] == "shard":
        return bool(event["done"] == event["total"])
    return event["event"] == "epoch" and bool(event["epoch"] == event["epochs"])


def display() -> PlainProgress | BarProgress:
    console = Console(stderr=True)
    return BarProgress(console) if console.is_terminal else PlainProgress()


@contextmanager
def logs_shown(stage: str, progress: PlainProgress | BarProgress) -> Iterator[None]:
    """Records of the `segtasks` loggers, from INFO up, become lines of the display."""
    logger, handler = logging.getLogger("segtasks"), _Lines(stage, progress)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Lines(logging.Handler):
    def __init__(self, stage: str, progress: PlainProgress | BarProgress) -> None:
        super().__init__(logging.INFO)
        self._stage, self._progress = stage, progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress({"event": "log", "stage": self._stage, "message": record.getMessage()})
