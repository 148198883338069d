"""What an exception from a store means. A lost race, a refusal and the weather look different on every backend."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from segtasks.errors import StorageError, StoreRefused

T = TypeVar("T")
Meaning = Literal["missing", "no bucket", "exists", "denied", "unsupported", "full", "transient", "other"]

deadline_seconds = 60.0  # for one call, retries included; `seconds_for` more where it moves bytes
attempt_seconds = 15.0  # for one try of it
_slowest_bytes_per_second = 1 << 20
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_DENIED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthenticationFailed", "AuthorizationFailure"}
_DENIED_TYPES = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "RefreshError",
    "DefaultCredentialsError",
    "CredentialUnavailableError",
}
_MISTAKES = {"ParamValidationError", "InvalidRegionError", "InvalidBucketName", "InvalidURL"}  # types and codes: no try will help


def seconds_for(size: int) -> float:
    """What moving `size` bytes may take on top of a call's deadline."""
    return size / _slowest_bytes_per_second


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from; not what merely was being handled then, which may be the fault of an earlier call."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _code(error: BaseException) -> str:
    """The store's own word for what is wrong, or an empty string."""
    response = getattr(error, "response", None)  # botocore
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    code = getattr(error, "error_code", None)  # azure: a str, or an enum of one
    return str(getattr(code, "value", code) or "")


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)  # botocore
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return int(status) if status else None
    for name in ("status_code", "status", "code"):  # azure, aiohttp, gcsfs
        value = getattr(error, name, None)
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return None


def meaning(error: BaseException) -> Meaning:
    """Classify by type first, then by the code and HTTP status of any exception in the chain."""
    if isinstance(error, FileExistsError):
        return "exists"
    chain = list(_chain(error))
    names = {_code(link) for link in chain} | {type(link).__name__ for link in chain}
    if names & _NO_BUCKET:
        return "no bucket"
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return "missing"
    if isinstance(error, UnicodeEncodeError) or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG):
        return "missing"  # a name out of somebody's list, that no object can have
    statuses = {status for link in chain if (status := _http_status(link))}
    if 412 in statuses:
        return "exists"
    # gcsfs says 403 in words only
    if isinstance(error, PermissionError) or names & _DENIED_TYPES or (type(error) is OSError and str(error).startswith("Forbidden:")):
        return "denied"
    if names & _DENIED or statuses & {401, 403}:
        return "denied"
    if names & _MISTAKES or statuses & {301, 308, 405, 411, 501}:
        return "unsupported"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "full"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return "denied"
    if 404 in statuses:
        return "missing"
    if isinstance(error, (OSError, TimeoutError)) or statuses:  # ConnectionError and asyncio's time-outs are OSErrors too
        return "transient"
    module = type(error).__module__.split(".")[0]
    return "transient" if module in ("aiohttp", "botocore", "aiobotocore", "azure", "requests", "urllib3", "gcsfs") else "other"


def translate(error: BaseException, doing: str) -> Exception:
    """The exception to raise for one that no retry helps."""
    kind = meaning(error)
    if kind == "missing":
        return FileNotFoundError(f"{doing}: no such object")
    if kind == "no bucket":
        return StoreRefused(f"{doing}: the bucket does not exist ({_short(error)}); check the URL and the endpoint, or create the bucket")
    if kind == "denied":
        return StoreRefused(f"{doing}: access denied ({_short(error)}); check the credentials in the environment and the bucket's policy")
    if kind == "full":
        return StorageError(f"{doing}: no space left ({_short(error)}); nothing was committed, free space and run again")
    if kind == "unsupported":
        return StoreRefused(
            f"{doing}: the store does not take this ({_short(error)}); check the bucket's name, region and endpoint: "
            "needed is a store with create-only writes"
        )
    return StorageError(f"{doing}: {_short(error)}; run again, finished shards are kept")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def with_retries(call: Callable[[], T], doing: str) -> T:
    """Run `call`, again after transient faults with full jitter, until the deadline; then a `StorageError`.

    `FileNotFoundError`, refusals and a full disk are raised at once. Not for create-only writes, whose lost answers must be
    resolved by reading back.
    """
    stop = last_start()
    attempt = 0
    while True:
        try:
            return call()
        except Exception as error:
            if meaning(error) == "other":
                raise
            if meaning(error) != "transient" or not wait_before_retry(attempt, stop):
                raise translate(error, doing) from error
            attempt += 1


def last_start() -> float:
    """The monotonic time after which no try begins: one that began later would not end within the deadline."""
    return time.monotonic() + max(0.0, deadline_seconds - attempt_seconds)


def wait_before_retry(attempt: int, stop: float) -> bool:
    """Sleep a random part of 0.1, 0.2, 0.4, ... (at most 5) seconds; False when that would pass `stop`."""
    pause = random.uniform(0, min(5.0, 0.1 * 2**attempt))
    if time.monotonic() + pause >= stop:
        return False
    time.sleep(pause)
    return True
