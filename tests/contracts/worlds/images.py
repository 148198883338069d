from __future__ import annotations

from segtasks.codecs.image import encode_jpeg, encode_png
from segtasks.storage import Store
from tests.contracts.worlds import photo

options = {"store": "reference", "split": "folder", "group": "folder"}


def write(store: Store) -> None:
    for number in range(3):
        store.create(f"north/day/{number}.jpg", encode_jpeg(photo(number)))
        store.create(f"south/{number}.png", encode_png(photo(number)))
    store.create("top.JPG", encode_jpeg(photo(9)))
    store.create("south/notes.txt", b"no image")


def break_one(store: Store) -> str:
    """There is no truth to spoil: a header, then, which is all that is read."""
    store.replace("north/day/1.jpg", b"\xff\xd8 no header follows")
    return "north/day/1.jpg"
