from __future__ import annotations

import json

import numpy as np

from segtasks.codecs.image import encode_png
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, photo

IDS = np.array([[0, 7, 7, 26], [26000, 26001, 24000, 33]], np.uint16)  # a group of cars, two cars, a person, a group of bicycles


def write(store: Store) -> None:
    ids = np.kron(IDS, np.ones((3, 3), np.uint16))
    raw = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    height, width = ids.shape
    for number, name in enumerate(("train/aachen/aachen_000000_000019", "train/aachen/aachen_000001_000019", "val/ulm/ulm_000000_000019")):
        store.create(f"leftImg8bit/{name}_leftImg8bit.png", encode_png(photo(number, height, width)))
        store.create(f"gtFine/{name}_gtFine_labelIds.png", encode_mask(raw, PALETTE))
        store.create(f"gtFine/{name}_gtFine_instanceIds.png", encode_mask(ids, PALETTE))
    store.create("leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png", encode_png(photo(3, height, width)))
    car = {"label": "car", "polygon": [[0, 0], [5, 0], [5, 3]]}
    drawn = json.dumps({"imgHeight": height, "imgWidth": width, "objects": [car]}).encode()
    store.create("gtFine/train/ulm/ulm_000001_000019_gtFine_polygons.json", drawn)
    store.create("leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png", encode_png(photo(4, height, width)))
    dummy = encode_mask(np.zeros((height, width), np.uint8), PALETTE)
    store.create("gtFine/test/bonn/bonn_000000_000019_gtFine_labelIds.png", dummy)
    store.create("gtFine/val/ulm/ulm_000009_000019_gtFine_labelIds.png", dummy)  # its photo is not there


def break_one(store: Store) -> str:
    store.delete("gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png")
    store.delete("gtFine/train/aachen/aachen_000001_000019_gtFine_instanceIds.png")
    return "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png"
