"""Options by URL prefix, and the rule that no secret is ever part of a configuration: those come from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from segtasks.errors import ConfigError

StorageOptions = Mapping[str, Mapping[str, Any]]

_SECRET = re.compile(r"(secret|password|passwd|token|credential|account_key|sas|connection_string|^key$|access_key)", re.IGNORECASE)
_NOT_SECRET = {"anon", "profile", "token_file"}
_WAYS_TO_SIGN_IN = {"anon", "cloud", "google_default"}  # values of gcsfs' option `token` that are no token
_CONTAINER_FIRST = ("az", "abfs", "abfss")  # abfss://container@account.dfs.core.windows.net/path


def check_url(url: str) -> None:
    """Refuse a URL with a user or password in it: it would be written into plans, snapshots and logs."""
    if "://" in url:
        parts = urlsplit(url)
        user = None if parts.scheme in _CONTAINER_FIRST else parts.username
        if user or parts.password:
            raise ConfigError(
                f"the URL {parts.scheme}://***@{parts.hostname or ''}{parts.path} holds a user or password; "
                "needed: credentials from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)"
            )


def check_options(storage: StorageOptions) -> None:
    """Refuse options that look like secrets, wherever they are nested."""
    for prefix, options in storage.items():
        check_url(prefix)
        _check_names(prefix, options)


def _check_names(where: str, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        sign_in = name == "token" and value in _WAYS_TO_SIGN_IN
        if _SECRET.search(name) and name not in _NOT_SECRET and not sign_in:
            raise ConfigError(
                f"storage option {name!r} of {where} looks like a secret; needed: secrets from the environment "
                "(AWS_*, AZURE_STORAGE_*, GOOGLE_APPLICATION_CREDENTIALS), names such as profile or endpoint_url here"
            )
        if isinstance(value, Mapping):
            _check_names(where, value)
        elif isinstance(value, str) and "://" in value:
            check_url(value)


def options_for(url: str, storage: StorageOptions) -> dict[str, Any]:
    """The options of the longest prefix that `url` starts with."""
    best = max((prefix for prefix in storage if url.startswith(prefix)), key=len, default=None)
    return dict(storage[best]) if best is not None else {}
