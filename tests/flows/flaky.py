"""A reader plug-in for the tests: the `folder` format, failing in a chosen way as long as `counter` says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from segtasks.config import Config as BaseConfig
from segtasks.errors import InputError, StorageError
from segtasks.readers import folder
from segtasks.readers._base import Reader, SourceItem
from segtasks.spec import DatasetSpec
from segtasks.storage import Store

log = logging.getLogger("segtasks.flaky")
ERRORS = {"storage": StorageError, "input": InputError, "bug": KeyError}


class Config(BaseConfig):
    """How it fails."""

    counter: str = Field(description="file that holds one line a try")
    error: str = Field(description="storage, input or bug")
    failures: int = Field(description="how many tries fail")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> Reader:
    return Flaky(config, folder.build(folder.Config(), source, spec))


class Flaky:
    def __init__(self, config: Config, reader: Any) -> None:
        self._config, self._reader = config, reader

    def spec(self) -> DatasetSpec:
        return self._reader.spec()

    def scan(self) -> Iterator[SourceItem]:
        with Path(self._config.counter).open("a+") as file:
            file.write("try\n")
            file.seek(0)
            tries = len(file.readlines())
        log.warning("try %d of the flaky reader", tries)
        if tries <= self._config.failures:
            raise ERRORS[self._config.error](f"planted: try {tries}")
        return self._reader.scan()

    def read(self, item: SourceItem) -> Any:
        return self._reader.read(item)
