"""Events that a running stage sends: plain values, so that a bar, a log line, a JSON stream or an artifact can show them.

`{"event": "plan", "stage", "units", "todo", "inputs"}`, `{"event": "shard", "stage", "done", "total", "rows_done", "rows_total",
"quarantined"}`, `{"event": "retry", ...}`, `{"event": "epoch", ...}` (train), `{"event": "published", "stage", "ref"}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[dict[str, Any]], None]


def silent(event: dict[str, Any]) -> None:
    """Shows nothing."""
