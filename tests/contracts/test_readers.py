"""Every reader that ships is shown on a small data set of its format, made here; a new reader adds its maker to `WORLDS`."""

from __future__ import annotations

import numpy as np
import pytest

from segtasks import plugins
from segtasks.codecs.image import encode_jpeg, encode_png
from segtasks.codecs.mask import encode_mask
from segtasks.storage import Store, open_store
from segtasks.testing.readers import check_reader

PALETTE = [(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)]


def photo(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(seed: int, values: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, values, (height, width), dtype=np.uint8)


def camvid(store: Store) -> None:
    for split, names in (("train", ("0001TP_1", "0001TP_2", "0006R0_1")), ("val", ("0016E5_1",))):
        lines = []
        for number, name in enumerate(names):
            store.create(f"{split}/{name}.jpg", encode_jpeg(photo(number)))
            store.create(f"{split}annot/{name}.png", encode_mask(labels(number, 12), PALETTE))
            lines.append(f"/SegNet/CamVid/{split}/{name}.jpg /SegNet/CamVid/{split}annot/{name}.png\n")
        store.create(f"{split}.txt", "".join(lines).encode())


def folder(store: Store) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            store.create(f"images/{split}/scene/{number}.png", encode_png(photo(number)))
            store.create(f"masks/{split}/scene/{number}.png", encode_mask(labels(number, 3), PALETTE))
            ids = labels(number, 2)
            store.create(f"instances/{split}/scene/{number}.png", encode_mask(ids, PALETTE))
    store.create("images/test/0.jpg", encode_jpeg(photo(9)))  # a split without masks


WORLDS = {"camvid": camvid, "folder": folder}


def test_every_reader_has_a_world_here():
    assert sorted(WORLDS) == plugins.names("readers")


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_every_reader_keeps_the_contract(name, tmp_path):
    store = open_store(str(tmp_path))
    WORLDS[name](store)
    check_reader(plugins.load("readers", name), store)


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_an_image_without_its_mask_is_refused_by_read_alone(name, tmp_path):
    store = open_store(str(tmp_path))
    WORLDS[name](store)
    mask = next(entry.path for entry in store.list() if "annot/" in entry.path or entry.path.startswith("masks/train"))
    store.delete(mask)
    faulty = mask.replace("annot/", "/").replace("masks/", "images/")
    listed = {entry.path for entry in store.list()}
    image = next(path for path in (faulty, faulty.replace(".png", ".jpg")) if path in listed)
    check_reader(plugins.load("readers", name), store, faulty=[image])
