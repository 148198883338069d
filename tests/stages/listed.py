"""A reader for tests: `items.json` lists the images with splits and groups, and the side file `refused.json` those that are refused.

The side file is part of no image's version, as a label table or a calibration would be. `LOG` is as in `poison`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from segtasks.config import Config as BaseConfig
from segtasks.errors import LabelError
from segtasks.readers._base import RawSample, SourceItem
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from tests.stages.poison import LOG

PIXEL = bytes.fromhex(  # a grey PNG of one pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)


class Config(BaseConfig):
    """No options."""


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> Listed:
    return Listed(source)


class Listed:
    def __init__(self, source: Store) -> None:
        self._source = source

    def spec(self) -> DatasetSpec:
        return DatasetSpec(name="listed")

    def scan(self) -> Iterator[SourceItem]:
        for item in json.loads(self._source.read("items.json")):
            yield SourceItem(
                item["id"], item["id"], item.get("size", 1), item.get("version", "1"), item.get("split", ""), item.get("group", "")
            )

    def read(self, item: SourceItem) -> RawSample:
        if LOG in os.environ:
            with open(os.environ[LOG], "a") as log:
                log.write(f"{os.getpid()} {item.image_id}\n")
        if item.image_id in json.loads(self._source.read("refused.json")):
            raise LabelError("the side file refuses it")
        return RawSample(PIXEL)


def write_list(root: Path, items: list[dict[str, object]], refused: tuple[str, ...] = ()) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "items.json").write_text(json.dumps(items))
    (root / "refused.json").write_text(json.dumps(refused))
