from __future__ import annotations

from segtasks.codecs.image import encode_jpeg
from segtasks.storage import Store
from tests.contracts.worlds import photo

_YAML = b"path: ../datasets/tiny\ntrain: images/train\nval: val.txt\ntest: images/test\nnames: {0: car, 1: dog}\n"


def write(store: Store) -> None:
    store.create("data.yaml", _YAML)
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for number in range(count):
            store.create(f"images/{split}/{number}.jpg", encode_jpeg(photo(number)))
    store.create("val.txt", b"./images/val/0.jpg\n")
    store.create(
        "labels/train/0.txt", b"0 0.1 0.1 0.6 0.1 0.6 0.7\n1 0.3 0.3 0.9 0.3 0.9 0.9 0.3 0.9\n\n1 0.3 0.3 0.9 0.3 0.9 0.9 0.3 0.9\n"
    )
    store.create("labels/train/1.txt", b"")
    store.create("labels/val/0.txt", b"1 0 0 1.005 0 1 1\n")  # labels/train/2.txt is not there: no objects; nor is any of test: no truth


def break_one(store: Store) -> str:
    store.delete("labels/train/0.txt")
    store.create("labels/train/0.txt", b"0 0.1 0.1 0.6 0.1 0.6 7\n")
    return "images/train/0.jpg"
