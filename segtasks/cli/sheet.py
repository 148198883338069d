"""`segtasks inspect --output`: a contact sheet of a shard set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segtasks.errors import InputError
from segtasks.reporting.overlay import tile
from segtasks.reporting.sheet import classes_in, contact_sheet
from segtasks.stages.pictures import pictures

if TYPE_CHECKING:
    from segtasks.shards import Snapshot
    from segtasks.storage import StorageOptions

images_wanted = 12
columns = 3


def write_sheet(snapshot: Snapshot, path: Path, storage: StorageOptions) -> int:
    """Write the PNG; returns how many images it shows, each beside its masks."""
    found = pictures(snapshot, images_wanted, storage)
    if not found:
        raise InputError(f"{snapshot.ref} has no image that could be decoded, so there is nothing to show; see --quarantine")
    tiles = [tile(item.image, snapshot.spec, item.truth, item.prediction, longest=240) for item in found]
    captions = [f"{item.split}: {item.image_id}" if item.split else item.image_id for item in found]
    classes = classes_in((mask for item in found for mask in (item.truth, item.prediction)), snapshot.spec)
    data = contact_sheet(tiles, columns, captions, classes=classes, title=str(snapshot.ref), tile_width=480)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
    return len(found)
