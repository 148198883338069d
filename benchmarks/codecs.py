"""Our codecs against the usual ones, side by side: `python benchmarks/codecs.py [--rounds 9]`.

Each round times both, one after the other, so that a busy machine slows both; the ratio is the median over rounds. Masks and
photographs are CamVid's where the real data are there (SEGTASKS_TEST_DATA), else the built-in sample's. One thread.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from segtasks.codecs import rle
from segtasks.codecs.image import decode_image, encode_jpeg, encode_png
from segtasks.codecs.mask import decode_mask, encode_mask
from segtasks.readers._describe import voc_color
from segtasks.spec import DecodePolicy

PALETTE = [voc_color(index) for index in range(256)]
POLICY = DecodePolicy()
SMALL, LARGE = (360, 480), (1024, 2048)


@dataclass(frozen=True)
class Case:
    """`theirs` and `ours` do the same work on each of `items`; `expected` is the bar (design.md, issue 7)."""

    name: str
    theirs: Callable[[Any], Any]
    ours: Callable[[Any], Any]
    items: list[Any]
    expected: float
    sizes: bool = False  # compare bytes too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{'':34}{'theirs ms':>10}{'ours ms':>10}{'ratio':>8}{'expected':>10}   bytes, ours / theirs")
    for case in cases():
        theirs_ms, ours_ms, ratio = compare(case, rounds)
        share = ""
        if case.sizes:
            share = f"{sum(len(case.ours(item)) for item in case.items) / sum(len(case.theirs(item)) for item in case.items):.2f}"
        print(f"{case.name:34}{theirs_ms:10.3f}{ours_ms:10.3f}{ratio:8.1f}{case.expected:10.1f}   {share}")


def compare(case: Case, rounds: int) -> tuple[float, float, float]:
    """Best milliseconds an item of either, and the median of their ratios."""
    pairs = [(seconds(case.theirs, case.items), seconds(case.ours, case.items)) for _ in range(rounds + 1)][1:]
    scale = 1000 / len(case.items)
    return min(a for a, _ in pairs) * scale, min(b for _, b in pairs) * scale, statistics.median(a / b for a, b in pairs)


def seconds(work: Callable[[Any], Any], items: list[Any]) -> float:
    start = time.perf_counter()
    for item in items:
        work(item)
    return time.perf_counter() - start


def cases() -> Iterator[Case]:
    for (height, width), count, encode_bar, decode_bar, jpeg_bar in ((SMALL, 24, 8.0, 3.0, 1.3), (LARGE, 4, 8.0, 3.0, 2.4)):
        masks, photographs = real_or_made(height, width, count)
        at = f"{width}x{height}"
        yield Case(f"mask encode {at}", pillow_mask, lambda mask: encode_mask(mask, PALETTE), masks, encode_bar, sizes=True)
        encoded = [encode_mask(mask, PALETTE) for mask in masks]
        yield Case(f"mask decode {at}", pillow_array, lambda data: decode_mask(data, POLICY.max_pixels), encoded, decode_bar)
        jpegs = [encode_jpeg(photograph) for photograph in photographs]
        yield Case(f"JPEG decode {at}", pillow_array, lambda data: decode_image(data, POLICY).pixels, jpegs, jpeg_bar)
        yield Case(f"PNG encode {at}", pillow_png, encode_png, photographs, 5.0, sizes=True)
        pngs = [encode_png(photograph) for photograph in photographs]
        yield Case(f"PNG decode {at}", pillow_array, lambda data: decode_image(data, POLICY).pixels, pngs, 1.3)
        objects = [mask == np.bincount(mask.ravel()).argmax() for mask in masks]
        yield Case(f"RLE encode {at}", coco_counts, rle.encode, objects, 2.0, sizes=True)
        counts = [(rle.encode(each), each.shape) for each in objects]
        yield Case(f"RLE decode {at}", coco_mask, lambda pair: rle.decode(pair[0], *pair[1]), counts, 1.5)


def real_or_made(height: int, width: int, count: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    root = Path(os.environ.get("SEGTASKS_TEST_DATA") or Path(__file__).parents[1].parent / "shared" / "data") / "camvid"
    if root.exists():
        labels = sorted((root / "trainannot").glob("*.png"))
        labels = labels[:: max(1, len(labels) // count)][:count]
        masks = [Image.open(path) for path in labels]
        photographs = [Image.open(root / "train" / f"{path.stem}.jpg") for path in labels]
    else:
        from segtasks.sample import make_scenes

        scenes = list(make_scenes("train", count))
        masks = [Image.fromarray(scene.mask) for scene in scenes]
        photographs = [Image.fromarray(scene.image) for scene in scenes]
    size = (width, height)
    return (
        [np.array(mask.resize(size, Image.Resampling.NEAREST)) for mask in masks],
        [np.array(photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC)) for photograph in photographs],
    )


def pillow_mask(mask: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette([channel for color in PALETTE for channel in color])
    return saved(image)


def pillow_png(pixels: NDArray[np.uint8]) -> bytes:
    return saved(Image.fromarray(pixels))


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def pillow_array(data: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(data)))


def coco_counts(mask: NDArray[np.bool_]) -> bytes:
    return bytes(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])


def coco_mask(pair: tuple[bytes, tuple[int, int]]) -> NDArray[np.uint8]:
    return np.asarray(coco.decode([{"size": list(pair[1]), "counts": pair[0]}]))


if __name__ == "__main__":
    main()
