"""Every image below the source, without labels: `a/b/x.jpg`, in whatever folders. Files of other suffixes are passed over, and counted.

By value the files' bytes go into the shards. By reference (`store: reference`) a row keeps only where its image is and which
version that was, so that a large bucket is not copied: later stages fetch the bytes from there, and refuse an image that was
replaced since (`ChangedObject`) or is gone (`MissingObject`). Only headers are read then, so that whether an image decodes is
found by the stage that does it.
"""

from __future__ import annotations

import fnmatch
import logging
import posixpath
import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from segtasks.codecs.image import Header, read_header
from segtasks.config import Config as BaseConfig
from segtasks.errors import DecodeError, InputError
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._listing import IMAGE_SUFFIXES, is_hidden, suffix
from segtasks.spec import DatasetSpec
from segtasks.storage import Store

log = logging.getLogger(__name__)
header_bytes = 64 << 10
_shown = 3  # paths named in a message


class Config(BaseConfig):
    """Options of the images reader."""

    store: Literal["value", "reference"] = Field(
        default="value", description="value: the shards hold the images' bytes; reference: they hold where the images are"
    )
    suffixes: tuple[str, ...] = Field(
        default=tuple(sorted(IMAGE_SUFFIXES)), min_length=1, description="files that are images, by the end of their name: .jpg, .png, ..."
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="globs of paths below the source that are passed over: thumbs/*, *_preview.jpg; * takes in slashes"
    )
    split: Literal["none", "folder"] = Field(default="none", description="folder: the first folder below the source is the split")
    group: Literal["none", "folder"] = Field(
        default="none", description="folder: images of one folder (a video, a patient) stay together in a shard"
    )

    @field_validator("suffixes")
    @classmethod
    def _with_a_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f".{one.lower().lstrip('.')}" for one in value)


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> ImagesReader:
    return ImagesReader(config, source, spec)


class ImagesReader:
    """See the module. Nothing of the listing is kept."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._spec = DatasetSpec(name=self._source.url.rstrip("/").rsplit("/", 1)[-1])
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        suffixes = frozenset(self._config.suffixes)
        excluded = _any_of(self._config.exclude)
        found = others = left_out = 0
        some_others: list[str] = []
        for entry in self._source.list():
            if is_hidden(entry.path):
                continue
            if suffix(entry.path) not in suffixes:
                others += 1
                if others <= _shown:
                    some_others.append(entry.path)
                continue
            if excluded is not None and excluded.fullmatch(entry.path):
                left_out += 1
                continue
            found += 1
            folder = posixpath.dirname(entry.path)
            yield SourceItem(
                image_id=entry.path,
                path=entry.path,
                size=entry.size,
                version=entry.version,
                split=folder.partition("/")[0] if self._config.split == "folder" else "",
                group_id=folder if self._config.group == "folder" else "",
            )
        seen = ", ".join(some_others) + (f", ... ({others} files)" if others > _shown else "")
        if not found:
            because = f"; exclude leaves out {left_out} images" if left_out else ""
            raise InputError(
                f"no images at {self._source.url}: looked for {_ends(self._config.suffixes)}; found {seen or 'nothing else'}{because}"
            )
        if others or left_out:
            log.info("%d images; exclude leaves out %d, and %d files have no image's suffix: %s", found, left_out, others, seen or "none")

    def read(self, item: SourceItem) -> RawSample:
        if self._config.store == "value":
            return RawSample(self._source.read(item.path))
        return RawSample(b"", referenced=self._header(item))

    def _header(self, item: SourceItem) -> Header:
        """From the first bytes; of a file whose header lies further on (many TIFFs, WebP, large colour profiles) from the whole."""
        policy = self.spec().decode
        start = self._source.read_range(item.path, 0, header_bytes)
        if len(start) < item.size:
            try:
                return read_header(start, policy, size=item.size)
            except DecodeError:
                start = self._source.read(item.path)
        return read_header(start, policy)


def _any_of(globs: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs)) if globs else None


def _ends(suffixes: tuple[str, ...]) -> str:
    return ", ".join(suffixes[:12]) + (", ..." if len(suffixes) > 12 else "")
