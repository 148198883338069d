from __future__ import annotations

from segtasks.codecs.image import encode_jpeg, encode_png
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, labels, photo


def write(store: Store) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            store.create(f"images/{split}/scene/{number}.png", encode_png(photo(number)))
            store.create(f"masks/{split}/scene/{number}.png", encode_mask(labels(number, 3), PALETTE))
            ids = labels(number, 2)
            store.create(f"instances/{split}/scene/{number}.png", encode_mask(ids, PALETTE))
    store.create("images/test/0.jpg", encode_jpeg(photo(9)))  # a split without masks


def break_one(store: Store) -> str:
    store.delete("masks/train/scene/1.png")
    return "images/train/scene/1.png"
