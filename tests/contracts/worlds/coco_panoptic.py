from __future__ import annotations

import json

import numpy as np

from segtasks.codecs.image import encode_jpeg, encode_png
from segtasks.storage import Store
from tests.contracts.worlds import photo

THING, STUFF, CROWD = 70_000, 5, 300


def write(store: Store) -> None:
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        for number in numbers:
            store.create(f"{split}2017/{number}.jpg", encode_jpeg(photo(number)))
            store.create(f"annotations/panoptic_{split}2017/{number}.png", encode_png(_segments(CROWD)))
        segments = [
            {"id": THING, "category_id": 18, "iscrowd": 0, "bbox": [1, 1, 4, 5], "area": 20},
            {"id": STUFF, "category_id": 200, "iscrowd": 0, "bbox": [0, 6, 16, 6], "area": 96},
            {"id": CROWD, "category_id": 3, "iscrowd": 1, "bbox": [8, 0, 8, 4], "area": 32},
        ]
        document = {
            "images": [{"id": number, "file_name": f"{number}.jpg", "height": 12, "width": 16} for number in numbers],
            "annotations": [{"image_id": number, "file_name": f"{number}.png", "segments_info": segments} for number in numbers],
            "categories": [
                {"id": 3, "name": "car", "supercategory": "vehicle", "isthing": 1},
                {"id": 200, "name": "road", "supercategory": "ground", "isthing": 0, "color": [128, 64, 128]},
                {"id": 18, "name": "dog", "supercategory": "animal", "isthing": 1},
            ],
        }
        store.create(f"annotations/panoptic_{split}2017.json", json.dumps(document).encode())


def break_one(store: Store) -> str:
    path = "annotations/panoptic_train2017/2.png"
    store.delete(path)
    store.create(path, encode_png(_segments(CROWD + 1)))
    return "train2017/2.jpg"


def _segments(crowd: int) -> np.ndarray:
    ids = np.zeros((12, 16), np.uint32)  # rows 4 and 5 are void but for the thing
    ids[1:6, 1:5], ids[6:], ids[:4, 8:] = THING, STUFF, crowd
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)
