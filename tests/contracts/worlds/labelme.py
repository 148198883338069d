from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from segtasks.codecs.image import encode_jpeg
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, photo


def shape(label: str, kind: str | None, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def write(store: Store) -> None:
    octagon = base64.b64encode(encode_mask(np.eye(4, dtype=np.uint8), PALETTE)).decode()
    kinds = [
        shape("car", "polygon", (1, 1), (7, 1), (7, 6), group_id=1),
        shape("car", "rectangle", (9, 9), (12, 10), group_id=1),
        shape("dog", "circle", (8, 6), (8, 3)),
        shape("dog", "mask", (3, 3), (6, 6), mask=octagon),
        shape("lane", "linestrip", (0, 0), (5, 5), (9, 0)),
        shape("__ignore__", "polygon", (12, 0), (16, 0), (16, 4)),
        shape("_background_", None, (0, 9), (4, 9), (0, 12)),
    ]
    for number, folder in enumerate(("train", "train", "val", "rest")):
        image = encode_jpeg(photo(number))
        embedded = base64.b64encode(image).decode() if folder == "rest" else None
        if embedded is None:
            store.create(f"{folder}/{number}.jpg", image)
        contents = {"version": "5.7.0", "flags": {"night": True}, "shapes": kinds[number:], "imagePath": f"..\\x\\{number}.jpg"}
        contents.update(imageData=embedded, imageHeight=12, imageWidth=16)
        store.create(f"{folder}/{number}.json", json.dumps(contents).encode())


def break_one(store: Store) -> str:
    store.delete("train/1.json")
    store.create("train/1.json", b'{"shapes": [')
    return "train/1.jpg"
