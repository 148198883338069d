"""The fsspec client of a URL, with time limits and retries of ours, and calls on it that end in time.

Clients differ: botocore tries five times and s3fs five times that, Azure's waits 15 s before its first retry, gcsfs has no time
limit at all. Here one try is cut after its seconds, whatever the client does inside; what comes after a try is `_faults`' to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.asyn import sync

from segtasks.errors import ConfigError, MissingExtra

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
connect_seconds = 5.0
idle_seconds = 15.0  # between two bytes of an answer
_tries = 3  # inside the client: a listing is many requests, and only the client can try one page again


def connect(url: str, options: Mapping[str, Any], single_put_bytes: int) -> Any:
    """The client of `url`; the user's options win over ours. fsspec keeps one a process for equal options."""
    protocol = url.partition("://")[0]
    make = {"s3": _s3, "s3a": _s3, "gs": _gcs, "gcs": _gcs, "az": _azure, "abfs": _azure, "abfss": _azure}.get(protocol)
    try:
        if make is None:
            return fsspec.filesystem(protocol, **options)
        # another process's commit must be seen at once
        return make(protocol, {"use_listings_cache": False, **options}, url, single_put_bytes)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'segtasks[{extra}]'" if extra else f"install the fsspec backend of {protocol}://"
        raise MissingExtra(f"{url} needs another package ({error}): {hint}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the storage options of {url} are not accepted: {error}") from error


def _s3(protocol: str, options: dict[str, Any], url: str, single_put_bytes: int) -> Any:
    ours = {
        "connect_timeout": connect_seconds,
        "read_timeout": idle_seconds,
        "retries": {"mode": "standard", "total_max_attempts": _tries},
    }
    filesystem = fsspec.filesystem(protocol, **{**options, "config_kwargs": {**ours, **options.get("config_kwargs", {})}})
    filesystem.retries = 1  # of s3fs itself, around those of botocore
    return filesystem


def _gcs(protocol: str, options: dict[str, Any], url: str, single_put_bytes: int) -> Any:
    import aiohttp

    # not fsspec.filesystem("gs"): that class asks each bucket's kind by gRPC first, which hangs for a minute where only the JSON API
    # is reachable, and writes to zonal buckets by another protocol, whose create-only writes nobody has raced
    from gcsfs.core import GCSFileSystem

    limits = aiohttp.ClientTimeout(sock_connect=connect_seconds, sock_read=idle_seconds)
    return GCSFileSystem(**{"requests_timeout": limits, **options})


def _azure(protocol: str, options: dict[str, Any], url: str, single_put_bytes: int) -> Any:
    timeouts = {"connection_timeout": connect_seconds, "read_timeout": idle_seconds}
    from_url = fsspec.get_filesystem_class(protocol)._get_kwargs_from_urls(url)  # the account, where the URL names it
    filesystem = fsspec.filesystem(protocol, **{**timeouts, **from_url, **options})
    settings = filesystem.service_client._config
    settings.max_single_put_size = single_put_bytes  # above 64 MiB it would send blocks and a list of them
    with suppress(AttributeError):  # a policy of another name only makes it slower: tries are cut in time
        settings.retry_policy.initial_backoff = 0.2
        settings.retry_policy.total_retries = _tries - 1
    return filesystem


def call(filesystem: Any, name: str, *arguments: Any, seconds: float | None, **options: Any) -> Any:
    """`filesystem.<name>(...)`, cancelled with a `TimeoutError` after `seconds` (clients that block in C or Python are not)."""
    if getattr(filesystem, "async_impl", False):
        return sync(filesystem.loop, getattr(filesystem, f"_{name}"), *arguments, timeout=seconds, **options)
    return getattr(filesystem, name)(*arguments, **options)
