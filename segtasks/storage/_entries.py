"""What a listing or a look-up says of one object, whatever the backend calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed object. `version` changes when the content does (etag, generation, or size and mtime)."""

    path: str
    size: int
    version: str
    modified: float = 0.0  # seconds since the epoch, by the store's clock; 0 where the store does not say


def entry_of(path: str, info: Mapping[str, Any]) -> Entry:
    version = info.get("ETag") or info.get("etag") or info.get("generation") or ""
    if not version and "created" in info:  # in some listings a date, in look-ups a number
        version = _modified({"created": info["created"]})
    return Entry(path, int(info["size"]), str(version).strip('"') or str(info["size"]), _modified(info))


def _modified(info: Mapping[str, Any]) -> float:
    """When a listed object was written: every backend has its own word for it, and some give text."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return 0.0
