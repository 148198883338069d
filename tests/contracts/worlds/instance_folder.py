from __future__ import annotations

import numpy as np

from segtasks.codecs.image import encode_png
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, photo


def write(store: Store) -> None:
    for split, names in (("stage1_train", ("a", "b", "c")), ("valid", ("d",))):
        for number, name in enumerate(names):
            store.create(f"{split}/{name}/images/{name}.png", encode_png(photo(number)))
            for top in range(3):  # neighbours overlap by a row
                mask = np.zeros((12, 16), np.uint8)
                mask[2 * top : 2 * top + 3, number : number + 5] = 255
                store.create(f"{split}/{name}/masks/{top}.png", encode_mask(mask, PALETTE))
    store.create("stage1_test/e/images/e.png", encode_png(photo(9)))  # a split without masks


def break_one(store: Store) -> str:
    store.delete("stage1_train/b/masks/1.png")
    store.create("stage1_train/b/masks/1.png", encode_mask(np.zeros((12, 16), np.uint8), PALETTE))
    return "stage1_train/b/images/b.png"
