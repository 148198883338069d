"""A reference: a URL and a snapshot number. Stages hand on references, never data. Prints and parses as `url@3`."""

from __future__ import annotations

import re

from pydantic import Field

from segtasks.config import Config
from segtasks.errors import ConfigError


class Ref(Config):
    """Where a shard set is and which snapshot of it is meant; `snapshot=None` means the latest when it is resolved."""

    url: str = Field(description="root of the shard set, for example s3://bucket/data")
    snapshot: int | None = Field(default=None, ge=1, description="snapshot number; none: the latest")

    def __str__(self) -> str:
        return self.url if self.snapshot is None else f"{self.url}@{self.snapshot}"

    @classmethod
    def parse(cls, text: str) -> Ref:
        """`s3://b/data@3` -> url and number; without `@n` the latest snapshot is meant."""
        if not text:
            raise ConfigError("an empty URL was given; needed: a folder or URL, optionally with @snapshot")
        match = re.fullmatch(r"(.+)@([0-9]+)", text)
        return cls(url=match[1], snapshot=int(match[2])) if match else cls(url=text)
