"""Every error a user can meet, with the exit code it ends in. A message says what was found, what was needed, what to do.

Two families matter most. A `DataFault` is a deterministic fault of one image: the row is quarantined and its neighbours go
on. Everything else fails its shard or the run, and never quarantines anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class SegtasksError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class ConfigError(SegtasksError):
    """The configuration is wrong: nothing was done."""

    exit_code = 2


class InputError(SegtasksError):
    """What the configuration points at is missing, unreadable for us, or not of the layout it should be."""

    exit_code = 2


class RecipeMismatch(ConfigError):
    """The output was made by another recipe. `differences` are lines of `key: theirs -> ours`."""

    def __init__(self, message: str, differences: Iterable[str] = ()) -> None:
        self.differences = tuple(differences)
        super().__init__(message)


class MissingExtra(ConfigError):
    """An optional package is needed: the message names the extra to install."""


class StoreRefused(ConfigError):
    """The store cannot hold a shard set: it lets a second create-only write through, or denies access."""


class StorageError(SegtasksError):
    """The store failed after retries, or a result stays unknown. Nothing wrong was committed; run again."""


class IncompleteError(SegtasksError):
    """Some shards could not be made; what is done stays. `reasons` are one line each."""

    exit_code = 3

    def __init__(self, message: str, reasons: Iterable[str] = ()) -> None:
        self.reasons = tuple(reasons)
        super().__init__(message)


class QuarantineLimit(SegtasksError):
    """More rows are quarantined than `max_quarantined` allows: shards stay, no snapshot is published."""

    exit_code = 3


class SourceShrank(SegtasksError):
    """More images are gone from the source than `deleted` and `max_deleted` allow: nothing was planned."""

    exit_code = 3


class QualityBelowThreshold(SegtasksError):
    """A metric is below the threshold that the configuration asks for."""

    exit_code = 3


class TooManyFindings(SegtasksError):
    """A check found more than `max_findings` allows. `result` is the stage's: what was found is published all the same."""

    exit_code = 3

    def __init__(self, message: str, result: object = None) -> None:
        self.result = result
        super().__init__(message)


class CorruptError(SegtasksError):
    """A shard set does not agree with itself: a hash, a count or a digest differs from what was recorded."""

    exit_code = 3


class DataFault(SegtasksError):
    """A deterministic fault of one image or its label. The class name is stored as `error_type`."""


class DecodeError(DataFault):
    """The bytes are not a decodable image of an allowed format."""


class LimitError(DataFault):
    """The image is larger than the stated limits allow (pixels, bytes, memory)."""


class MissingObject(DataFault):
    """The object was listed, but is not there when it is read."""


class ChangedObject(DataFault):
    """The object that the row refers to was replaced since it was ingested: the row's facts are those of another version."""


class LabelError(DataFault):
    """The label does not fit the image or the classes: size, values, missing file."""


class ShapeError(DataFault):
    """The array has a shape that the operation cannot take."""


class PoisonError(DataFault):
    """The image ends the process that works on it, every time and alone: a crash, a hang, or too much memory."""


def error_named(name: str, message: str) -> SegtasksError:
    """An error of ours from its class name, as workers send it; anything else becomes a plain `SegtasksError`."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, SegtasksError):
        return found(message)
    return SegtasksError(f"{name}: {message}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known name, or the list of known names when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""
