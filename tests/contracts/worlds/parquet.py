from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from segtasks.codecs.image import encode_png
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, labels, photo

options = {"meta": ["site"], "group": "site"}
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES = {
    "image": {"_type": "Image"},
    "mask": {"_type": "Image"},
    "objects": {"feature": {"names": ["sky", "road", "car"], "_type": "ClassLabel"}, "_type": "List"},
    "site": {"dtype": "string", "_type": "Value"},
}


def write(store: Store) -> None:
    for split, seeds in (("train", range(5)), ("validation", range(5, 7))):
        store.create(f"data/{split}-00000-of-00001.parquet", table(list(seeds)))


def break_one(store: Store) -> str:
    store.replace("data/train-00000-of-00001.parquet", table(list(range(5)), without=2))
    return "data/train-00000-of-00001.parquet#row=2"


def table(seeds: list[int], without: int | None = None) -> bytes:
    """In row groups of two; the mask of the row `without` is null."""
    masks = [None if at == without else {"bytes": encode_mask(labels(seed, 3), PALETTE), "path": None} for at, seed in enumerate(seeds)]
    columns = {
        "image": pa.array([{"bytes": encode_png(photo(seed)), "path": f"{seed}.png"} for seed in seeds], _PICTURE),
        "mask": pa.array(masks, _PICTURE),
        "objects": pa.array([[seed % 3] for seed in seeds], pa.list_(pa.int64())),
        "site": pa.array([f"site {seed % 2}" for seed in seeds]),
    }
    made = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": _FEATURES}})})
    file = io.BytesIO()
    pq.write_table(made, file, row_group_size=2)
    return file.getvalue()
