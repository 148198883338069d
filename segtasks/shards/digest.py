"""The proof that every input came out: an order-independent digest of ids that adds up over shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

_MODULUS = 1 << 128
EMPTY = "0" * 32


def digest_ids(ids: Iterable[str]) -> str:
    """Sum modulo 2^128 of the BLAKE2b-128 of each id, as 32 hex digits. A sum, not an XOR: an id that comes twice shows."""
    total = 0
    for item in ids:
        total += int.from_bytes(hashlib.blake2b(item.encode(), digest_size=16).digest(), "big")
    return f"{total % _MODULUS:032x}"


def add_digests(digests: Iterable[str]) -> str:
    """The digest of the union of disjoint lots of ids."""
    return f"{sum(int(item, 16) for item in digests) % _MODULUS:032x}"


def subtract_digest(whole: str, part: str) -> str:
    """The digest of what is left when the ids of `part` are taken out of `whole`."""
    return f"{(int(whole, 16) - int(part, 16)) % _MODULUS:032x}"


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def content_id(value: Any) -> str:
    """32 hex digits that name a JSON value by its content."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:32]


def hash_bytes(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
