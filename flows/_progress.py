"""A progress artifact: one percentage, brought up to date every few seconds while the stage runs."""

from __future__ import annotations

import contextvars
import logging
import time
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

log = logging.getLogger(__name__)
interval_s = 3.0


class ProgressArtifact:
    """Takes a stage's events. Made inside a task run; events may come from any thread."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._context = contextvars.copy_context()  # the run that the artifact belongs to
        self._id: UUID | None = None
        self._shown, self._last = -1.0, 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        percent, text = percentage(event)
        if percent is None or percent == self._shown:
            return
        now = time.monotonic()
        if self._id is not None and percent < 100 and now - self._last < interval_s:
            return
        self._shown, self._last = percent, now
        try:
            self._context.copy().run(self._send, percent, text)
        except Exception as error:  # noqa: BLE001 - whatever keeps Prefect from showing progress, the work goes on
            log.warning("progress could not be shown in Prefect: %s", error)

    def _send(self, percent: float, text: str) -> None:
        if self._id is None:
            self._id = cast(UUID, create_progress_artifact(progress=percent, key=f"{self._stage}-progress", description=text))
        else:
            update_progress_artifact(self._id, progress=percent, description=text)


def percentage(event: dict[str, Any]) -> tuple[float | None, str]:
    """Percent done and a sentence, of the events that say so."""
    if event["event"] == "shard" and event["total"]:
        bad = f", {event['quarantined']} quarantined" if event["quarantined"] else ""
        return 100 * event["done"] / event["total"], f"{event['done']} of {event['total']} shards, {event['rows_done']} images{bad}"
    if event["event"] == "epoch":
        return 100 * event["epoch"] / event["epochs"], f"epoch {event['epoch']} of {event['epochs']}, loss {event['loss']:.3f}"
    return None, ""
