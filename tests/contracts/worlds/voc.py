from __future__ import annotations

from segtasks.codecs.image import encode_jpeg
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, labels, photo

ROOT = "VOCdevkit/VOC2012"


def write(store: Store) -> None:
    splits = {"train": ("2007_000001", "2007_000002"), "val": ("2007_000003",), "test": ("2008_000001",)}
    for number, (split, name) in enumerate((split, name) for split, names in splits.items() for name in names):
        store.create(f"{ROOT}/JPEGImages/{name}.jpg", encode_jpeg(photo(number)))
        store.create(f"{ROOT}/Annotations/{name}.xml", b"<annotation/>")
        if split != "test":
            classes = labels(number, 3) + 1
            classes[0] = 255
            objects = labels(number + 9, 3)
            objects[0] = 255
            store.create(f"{ROOT}/SegmentationClass/{name}.png", encode_mask(classes, PALETTE))
            store.create(f"{ROOT}/SegmentationObject/{name}.png", encode_mask(objects, PALETTE))
    store.create(f"{ROOT}/JPEGImages/2007_000099.jpg", encode_jpeg(photo(9)))  # for detection only: in no list
    for split, names in {**splits, "trainval": (*splits["train"], *splits["val"])}.items():
        store.create(f"{ROOT}/ImageSets/Segmentation/{split}.txt", "".join(f"{name}\n" for name in names).encode())


def break_one(store: Store) -> str:
    store.delete(f"{ROOT}/SegmentationClass/2007_000002.png")
    return f"{ROOT}/JPEGImages/2007_000002.jpg"
