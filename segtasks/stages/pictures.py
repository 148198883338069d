"""A few images of a shard set with their masks, for a contact sheet or an artifact.

Predictions find their images, and the truth where it has the same classes, in the shard set they were made from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import decode_mask
from segtasks.errors import DataFault, InputError
from segtasks.shards.pixels import IMAGE_COLUMNS, image_bytes
from segtasks.shards.records import ShardRecord
from segtasks.shards.schema import IMAGE_AXES, SAMPLE_ROWS
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.stages._volumes import middle_slice
from segtasks.storage import StorageOptions

log = logging.getLogger(__name__)
Mask = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Picture:
    """Pixels H x W x 3; masks H x W of class indices, none where there is none."""

    image_id: str
    split: str
    image: NDArray[np.uint8]
    truth: Mask | None
    prediction: Mask | None


def pictures(snapshot: Snapshot, count: int, storage: StorageOptions | None = None) -> list[Picture]:
    """The first `count` done images, the same number from each split as far as there are any; as few shards are read as that takes.

    Images by reference that are gone, were replaced or do not decode are passed over, with a warning.
    """
    if snapshot.file.rows not in (*SAMPLE_ROWS, "predictions/1"):
        raise InputError(
            f"{snapshot.ref} holds {snapshot.file.rows.partition('/')[0]}, which has no images; needed: samples or predictions"
        )
    source = snapshot
    if snapshot.file.rows == "predictions/1":
        assert snapshot.file.input is not None
        source = open_snapshot(snapshot.file.input, storage)
    by_split: dict[str, list[ShardRecord]] = {}
    for record in snapshot.shards():
        by_split.setdefault(record.split, []).append(record)
    share = -(-count // max(1, len(by_split)))
    found = [picture for records in by_split.values() for picture in islice(_of_split(snapshot, source, records, storage), share)]
    return found[:count]


def _of_split(snapshot: Snapshot, source: Snapshot, records: list[ShardRecord], storage: StorageOptions | None) -> Iterator[Picture]:
    columns = [*IMAGE_COLUMNS, "mask"]
    for record in records:
        if source is snapshot:
            for row in snapshot.read(record, [*columns, "axes", "split"]).to_pylist():
                yield from _picture(source, row, None, storage)
            continue
        images = source.read(source.records[record.parent_shard], columns).to_pylist()
        by_id = {row["image_id"]: row for row in images}
        comparable = source.spec.classes == snapshot.spec.classes
        for row in snapshot.read(record, ["parent_id", "split", "mask"]).to_pylist():
            if row["parent_id"] in by_id:
                found = {**by_id[row["parent_id"]], "split": row["split"]}
                yield from _picture(source, found if comparable else {**found, "mask": None}, row["mask"]["bytes"], storage)


def _picture(source: Snapshot, row: dict[str, Any], prediction: bytes | None, storage: StorageOptions | None) -> Iterator[Picture]:
    policy = source.spec.decode
    truth = (row["mask"] or {}).get("bytes")
    try:
        if row.get("axes", IMAGE_AXES) != IMAGE_AXES:
            yield Picture(row["image_id"], row["split"], *middle_slice(row["image"]["bytes"], truth, source.spec), None)
            return
        image = decode_image(image_bytes(row, storage), policy).pixels
    except DataFault as fault:
        log.warning("%s is not shown: %s", row["image_id"], fault)
        return
    yield Picture(
        image_id=row["image_id"],
        split=row["split"],
        image=image,
        truth=decode_mask(truth, policy.max_pixels) if truth else None,
        prediction=decode_mask(prediction, policy.max_pixels) if prediction else None,
    )
