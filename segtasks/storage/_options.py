"""Options by URL prefix, and the rule that no secret is ever part of a configuration: those come from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from segtasks.errors import ConfigError
from segtasks.redact import is_secret_name

StorageOptions = Mapping[str, Mapping[str, Any]]

_WAYS_TO_SIGN_IN = {"anon", "cloud", "google_default"}  # values of gcsfs' option `token` that are no token
_INSTEAD = "needed: credentials from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)"
_BUCKET_ONLY = ("s3", "s3a", "gs", "gcs")  # their URLs have no port
_CONTAINER_FIRST = ("az", "abfs", "abfss")  # abfss://container@account.dfs.core.windows.net/path


def check_url(url: str) -> None:
    """Refuse a URL with a user or password in it: it would be written into plans, snapshots and logs."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # s3://user:a/b@bucket: a slash in the password ends the host, and what is left of it is no port
        raise ConfigError(f"the URL {scheme}://*** holds a user or password, or is none; {_INSTEAD}") from None
    if scheme in _BUCKET_ONLY and port is not None:
        raise ConfigError(f"the URL {scheme}://*** has a port, or holds a user or password; {_INSTEAD}, and the port in endpoint_url")
    user, host = parts.username, f"{parts.hostname or ''}{parts.path}"
    if scheme in _CONTAINER_FIRST:
        user = None
    if user or parts.password:
        raise ConfigError(f"the URL {scheme}://***@{host} holds a user or password; {_INSTEAD}")
    for pair in parts.query.split("&"):
        name = pair.partition("=")[0]
        if is_secret_name(name):
            raise ConfigError(f"the URL {scheme}://{host}?{name}=*** is signed; {_INSTEAD}")


def check_options(storage: StorageOptions) -> None:
    """Refuse options that look like secrets, wherever they are nested."""
    for prefix, options in storage.items():
        check_url(prefix)
        if not isinstance(options, Mapping):
            raise ConfigError(f"the storage options of {prefix} are a {type(options).__name__}; needed: a mapping of names to values")
        _check_names(prefix, options)


def _check_names(where: str, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        sign_in = name == "token" and value in _WAYS_TO_SIGN_IN
        if is_secret_name(name) and not sign_in:
            raise ConfigError(
                f"storage option {name!r} of {where} looks like a secret; needed: secrets from the environment "
                "(AWS_*, AZURE_STORAGE_*, GOOGLE_APPLICATION_CREDENTIALS), names such as profile or endpoint_url here"
            )
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, Mapping):
                _check_names(where, item)
            elif isinstance(item, str):
                check_url(item)


def refuse_secrets(settings: Any) -> Any:
    """For a configuration before it is read: `ConfigError` for a secret in `storage` or in any URL of it, which is not repeated."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if name == "storage" and isinstance(value, Mapping):
                check_options(value)
            elif isinstance(value, str):
                check_url(value)
            elif isinstance(value, Mapping):
                refuse_secrets(value)
    return settings


def options_for(url: str, storage: StorageOptions) -> dict[str, Any]:
    """The options of the longest prefix that `url` starts with."""
    best = max((prefix for prefix in storage if url.startswith(prefix)), key=len, default=None)
    return dict(storage[best]) if best is not None else {}
