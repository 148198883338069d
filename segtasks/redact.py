"""Which names stand for secrets, and values without them, for messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r"(secret|password|passwd|token|credential|account_key|sas|connection_string|^key$|access_key|^sig$|signature)", re.IGNORECASE
)
_NOT_SECRET = {"anon", "profile", "token_file"}


def is_secret_name(name: str) -> bool:
    return _SECRET.search(name) is not None and name not in _NOT_SECRET


def redacted(value: Any) -> Any:
    """The value with `***` for what a secret name or `storage` holds, and for every URL's user, password and query."""
    if isinstance(value, Mapping):
        return {key: "***" if key == "storage" or is_secret_name(str(key)) else redacted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]
    return re.sub(r"://[^/\s]*@|[?]\S*=\S*", "://***@", value) if isinstance(value, str) and "://" in value else value
