from __future__ import annotations

import json
from typing import Any

from segtasks.codecs.image import encode_jpeg, encode_png
from segtasks.storage import Store
from tests.contracts.worlds import photo

TRAIN = "annotations/instances_train2017.json"


def write(store: Store) -> None:
    for number in range(1, 4):
        store.create(f"train2017/{number}.jpg", encode_jpeg(photo(number)))
    store.create("images/val2017/night/4.png", encode_png(photo(4)))
    store.create(TRAIN, json.dumps(_train()).encode())
    images = [{"id": 4, "file_name": "night/4.png", "height": 12, "width": 16}]
    store.create("annotations/instances_val2017.json", json.dumps({**_train(), "images": images, "annotations": []}).encode())


def break_one(store: Store) -> str:
    document = _train()
    document["annotations"][2]["segmentation"]["counts"].pop()  # the crowd of the second image
    store.delete(TRAIN)
    store.create(TRAIN, json.dumps(document).encode())
    return "train2017/2.jpg"


def _train() -> dict[str, Any]:
    parts = [[1, 1, 6, 1, 6, 7, 1, 7], [8.5, 2, 14, 2, 11, 9.25]]
    overlapping, crowd = [[4, 3, 12, 3, 12, 10, 4, 10]], {"size": [12, 16], "counts": [30, 40, 122]}
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg", "height": 12, "width": 16} for number in range(1, 4)],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 18, "segmentation": parts, "iscrowd": 0, "bbox": [1, 1, 13, 8.25], "area": 50},
            {"id": 8, "image_id": 1, "category_id": 3, "segmentation": overlapping, "iscrowd": 0, "bbox": [4, 3, 8, 7], "area": 56},
            {"id": 9, "image_id": 2, "category_id": 3, "segmentation": crowd, "iscrowd": 1, "bbox": [2, 0, 4, 12], "area": 40},
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car", "supercategory": "vehicle"}],
    }
