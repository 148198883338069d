"""A picture at the end of a flow: images, truth, prediction and errors side by side, inside the artifact itself."""

from __future__ import annotations

import base64

from prefect.artifacts import create_markdown_artifact

from segtasks.codecs.image import encode_jpeg
from segtasks.reporting.overlay import tile
from segtasks.shards import open_snapshot
from segtasks.stages.pictures import pictures
from segtasks.storage import StorageOptions

images_shown = 2
longest_px = 240


def prediction_picture(predictions: str, storage: StorageOptions) -> None:
    """A markdown artifact `prediction-picture` of the first predicted images."""
    snapshot = open_snapshot(predictions, storage)
    parts = [f"First images of `{snapshot.ref}`: image, truth (where there is one), prediction, errors in red."]
    for item in pictures(snapshot, images_shown, storage):
        pixels = tile(item.image, snapshot.spec, item.truth, item.prediction, longest=longest_px)
        data = base64.b64encode(encode_jpeg(pixels, quality=85)).decode()
        parts.append(f"{item.image_id}\n\n![{item.image_id}](data:image/jpeg;base64,{data})")
    create_markdown_artifact(key="prediction-picture", markdown="\n\n".join(parts), description=f"Predictions in {snapshot.ref}")
