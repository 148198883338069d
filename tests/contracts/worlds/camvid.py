from __future__ import annotations

from segtasks.codecs.image import encode_jpeg
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store
from tests.contracts.worlds import PALETTE, labels, photo


def write(store: Store) -> None:
    for split, names in (("train", ("0001TP_1", "0001TP_2", "0006R0_1")), ("val", ("0016E5_1",))):
        lines = []
        for number, name in enumerate(names):
            store.create(f"{split}/{name}.jpg", encode_jpeg(photo(number)))
            store.create(f"{split}annot/{name}.png", encode_mask(labels(number, 12), PALETTE))
            lines.append(f"/SegNet/CamVid/{split}/{name}.jpg /SegNet/CamVid/{split}annot/{name}.png\n")
        store.create(f"{split}.txt", "".join(lines).encode())


def break_one(store: Store) -> str:
    store.delete("trainannot/0001TP_2.png")
    return "train/0001TP_2.jpg"
