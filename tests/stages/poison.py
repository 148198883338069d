"""A reader for tests: the `folder` layout, with images that abort, hang or fill the memory of whoever reads them."""

from __future__ import annotations

import os
import time

import numpy as np

from segtasks.readers import folder
from segtasks.readers._base import RawSample, SourceItem
from segtasks.spec import DatasetSpec
from segtasks.storage import Store

Config = folder.Config
LOG = "SEGTASKS_TEST_READ_LOG"  # environment variable: a file that gets a line for each read, with the process and the image


def build(config: folder.Config, source: Store, spec: DatasetSpec | None = None) -> Poisoned:
    return Poisoned(config, source, spec)


class Poisoned(folder.FolderReader):
    def read(self, item: SourceItem) -> RawSample:
        if LOG in os.environ:
            with open(os.environ[LOG], "a") as log:
                log.write(f"{os.getpid()} {item.image_id}\n")
        if "abort" in item.image_id:
            os.abort()
        if "hang" in item.image_id:
            time.sleep(3600)
        if "eat" in item.image_id:
            eaten = []
            while True:
                eaten.append(np.ones(64 << 20, np.uint8))
        return super().read(item)
