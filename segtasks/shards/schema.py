"""The columns of each kind of shard. Only types that every Parquet reader knows; error columns are never null.

`image` and `mask` are `struct<bytes, path>`, which Hugging Face `datasets` shows as pictures when the file says so.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from segtasks.errors import CorruptError

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
META = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))  # not a map: Hugging Face and Polars have none
_INSTANCE = [
    ("category_id", pa.int32()),
    ("bbox", pa.list_(pa.float32())),
    ("area", pa.float64()),
    ("iscrowd", pa.bool_()),
    ("size", pa.list_(pa.int32())),
    ("counts", pa.binary()),
]
_STATUS = [
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_type", pa.string(), nullable=False),
    pa.field("error", pa.string(), nullable=False),
]

SAMPLES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("image", PICTURE),
        pa.field("media_type", pa.string()),
        pa.field("shape", pa.list_(pa.int32())),
        pa.field("axes", pa.string()),
        pa.field("spacing", pa.list_(pa.float64())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mask", PICTURE),
        pa.field("class_pixels", pa.list_(pa.int64())),
        pa.field("instances", pa.list_(pa.struct(_INSTANCE))),
        pa.field("source_uri", pa.string()),
        pa.field("source_version", pa.string()),
        pa.field("meta", META),
        *_STATUS,
    ]
)
TILES = SAMPLES.insert(1, pa.field("parent_id", pa.string(), nullable=False))
PREDICTIONS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("parent_id", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mask", PICTURE),
        pa.field("class_pixels", pa.list_(pa.int64())),
        pa.field("mean_confidence", pa.float32()),
        pa.field("instances", pa.list_(pa.struct([*_INSTANCE, ("score", pa.float32())]))),
        *_STATUS,
    ]
)
EVALUATION = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("parent_id", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("valid_pixels", pa.int64()),
        pa.field("intersection", pa.list_(pa.int64())),
        pa.field("predicted", pa.list_(pa.int64())),
        pa.field("truth", pa.list_(pa.int64())),
        pa.field("miou", pa.float64()),
        *_STATUS,
    ]
)
CHECK = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("stored", pa.string()),
        pa.field("file_sha256", pa.binary()),
        pa.field("pixels_sha256", pa.binary()),
        pa.field("phash", pa.binary()),
        pa.field("mean", pa.float32()),
        pa.field("std", pa.float32()),
        pa.field("class_pixels", pa.list_(pa.int64())),
        pa.field("ignored_pixels", pa.int64()),
        pa.field("object_pixels", pa.list_(pa.int64())),
        pa.field("faults", pa.list_(pa.struct([("kind", pa.string()), ("what", pa.string()), ("amount", pa.float64())]))),
        *_STATUS,
    ]
)
SAMPLE_ROWS = ("samples/1", "tiles/1")  # tiles are samples that name the image they are of
SCHEMAS = {"samples/1": SAMPLES, "tiles/1": TILES, "predictions/1": PREDICTIONS, "evaluation/1": EVALUATION, "check/1": CHECK}
IMAGE_AXES = "YXC"  # of an image; a row of other axes is a whole volume
BLOBS = ("image", "mask", "instances")


def schema_named(name: str) -> pa.Schema:
    """The declared schema; a name this version does not know is an error that says so."""
    if name not in SCHEMAS:
        raise CorruptError(f"rows of schema {name!r} are not known to this version of segtasks (it knows {', '.join(SCHEMAS)})")
    return SCHEMAS[name]


def huggingface_metadata(schema: pa.Schema) -> bytes:
    """The value of the `huggingface` key: every column's feature, pictures as `Image`."""
    features = {field.name: _feature(field.type) for field in schema}
    return json.dumps({"info": {"features": features}}).encode()


def _feature(kind: pa.DataType) -> Any:
    if kind == PICTURE:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


def to_meta(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": storable(key), "value": storable(value)} for key, value in sorted(values.items())]


def storable(text: str) -> str:
    """JSON can hold half a character, and no file can: it becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
