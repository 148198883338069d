"""Ingest, export, ingest again, and what must be equal: pixels, classes by name, masks pixel by pixel, instances by their run lengths."""

from __future__ import annotations

import hashlib
import posixpath
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import decode_mask
from segtasks.engines import open_engine
from segtasks.shards import open_snapshot
from segtasks.stages.config import ExportDataConfig
from segtasks.stages.export_data import export_data
from segtasks.stages.result import StageResult
from tests.stages.world import inline, run_ingest


class Sample(NamedTuple):
    """One image: hash of its pixels, its mask by class names, its instances (class, crowd, counts) in order."""

    pixels: str
    mask: str | None
    instances: tuple[tuple[str, bool, bytes], ...] | None


def run_export(data: Path | str, output: Path | str, format: str | dict[str, Any], **settings: Any) -> StageResult:
    config = {"data": str(data), "output": str(output), "format": format, "engine": inline, **settings}
    return export_data(ExportDataConfig.model_validate(config), open_engine(inline))


def stem(image_id: str) -> str:
    return posixpath.splitext(posixpath.basename(image_id))[0]


def samples(url: Path | str, name: Callable[[str], str] = stem) -> dict[str, Sample]:
    """Every done image of a shard set of samples by `name` of its id."""
    snapshot = open_snapshot(str(url))
    spec = snapshot.spec
    by_name = np.array([zlib.crc32(name.encode()) for name in (*spec.names, "ignored")], np.uint32)
    found: dict[str, Sample] = {}
    for record in snapshot.shards():
        for row in snapshot.read(record, ["image_id", "image", "mask", "instances"]).to_pylist():
            pixels = hashlib.sha256(decode_image(row["image"]["bytes"], spec.decode).pixels).hexdigest()
            mask = None
            if row["mask"] is not None and row["mask"]["bytes"] is not None:
                values = decode_mask(row["mask"]["bytes"], spec.decode.max_pixels)
                named = by_name[np.where(values == spec.ignore_index, spec.num_classes, values)]
                mask = f"{values.shape} {hashlib.sha256(named).hexdigest()}"
            instances = None
            if row["instances"] is not None:
                instances = tuple(sorted((spec.names[one["category_id"]], one["iscrowd"], one["counts"]) for one in row["instances"]))
            key = name(row["image_id"])
            assert key not in found, f"two images are called {key}"
            found[key] = Sample(pixels, mask, instances)
    return found


def there_and_back(
    source: Path,
    folder: Path,
    reader: str | dict[str, Any],
    writer: str | dict[str, Any],
    again: str | dict[str, Any],
    name: Callable[[str], str] = stem,
) -> tuple[dict[str, Sample], dict[str, Sample]]:
    """The samples of `source`, and those read back with `again` from what `writer` made of them (under `folder / 'exported'`)."""
    run_ingest(source, folder / "data", format=reader)
    result = run_export(folder / "data", folder / "exported", writer)
    assert result.details["left_out"] == {}
    run_ingest(folder / "exported", folder / "data-again", format=again)
    for made in ("data", "data-again"):
        assert list(open_snapshot(str(folder / made)).quarantined()) == []
    return samples(folder / "data", name), samples(folder / "data-again", name)
