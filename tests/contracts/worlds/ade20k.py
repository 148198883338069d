from __future__ import annotations

from segtasks.codecs.image import encode_jpeg
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, labels, photo

ROOT = "ADEChallengeData2016"


def write(store: Store) -> None:
    names = ("training/ADE_train_00000001", "training/ADE_train_00000002", "validation/ADE_val_00000001")
    for number, name in enumerate(names):
        store.create(f"{ROOT}/images/{name}.jpg", encode_jpeg(photo(number)))
        store.create(f"{ROOT}/annotations/{name}.png", encode_mask(labels(number, 151), PALETTE))
    store.create(f"{ROOT}/images/testing/ADE_test_00000001.jpg", encode_jpeg(photo(9)))
    store.create(f"{ROOT}/sceneCategories.txt", b"ADE_train_00000001 abbey\nADE_train_00000002 airport_terminal\nADE_val_00000001 misc\n")


def break_one(store: Store) -> str:
    store.delete(f"{ROOT}/annotations/training/ADE_train_00000002.png")
    return f"{ROOT}/images/training/ADE_train_00000002.jpg"
