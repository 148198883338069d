"""A sound data set of sixty images in the `folder` layout with masks and instances, and ten faults to plant in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from segtasks.codecs.mask import encode_mask

CLASSES = ("background", "cat", "dog", "road")
PALETTE = [(0, 0, 0), (200, 0, 0), (0, 200, 0), (90, 90, 200)]
HEIGHT, WIDTH = 48, 64
SPEC = "name: farm\nclasses:\n" + "".join(
    f"- {{name: {name}, color: {list(color)}}}\n" for name, color in zip(CLASSES, PALETTE, strict=True)
)


def picture(number: int) -> np.ndarray:
    """A smooth picture that looks like no other."""
    coarse = np.random.default_rng(number).integers(20, 236, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def truth(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Class indices and instance ids: a cat, a dog and road below."""
    random = np.random.default_rng(number)
    mask, ids = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, left in ((1, 2), (2, 34)):
        top, side = int(random.integers(2, 14)), int(random.integers(8, 20))
        mask[top : top + side, left : left + side] = ids[top : top + side, left : left + side] = label
    mask[40:] = 3
    mask[39:40] = 255
    return mask, ids


def write_sound(root: Path, train: int = 45, val: int = 15) -> None:
    root.mkdir(parents=True)
    (root / "dataset.yaml").write_text(SPEC)
    for split, numbers in (("train", range(train)), ("val", range(100, 100 + val))):
        for folder in ("images", "masks", "instances"):
            (root / folder / split).mkdir(parents=True)
        for number in numbers:
            name = f"i{number:03d}.png"
            mask, ids = truth(number)
            Image.fromarray(picture(number)).save(root / "images" / split / name)
            (root / "masks" / split / name).write_bytes(encode_mask(mask, PALETTE))
            Image.fromarray(ids).save(root / "instances" / split / name)


def plant(sound: Path, root: Path) -> dict[str, set[str]]:
    """A copy with ten faults: what `check` must find, image ids by kind of finding."""
    shutil.copytree(sound, root)
    images, masks, instances = (root / folder for folder in ("images", "masks", "instances"))

    def write_mask(name: str, mask: np.ndarray) -> None:
        (masks / name).write_bytes(encode_mask(mask, PALETTE))

    cut = images / "train/i001.png"
    cut.write_bytes(cut.read_bytes()[:300])  # 1: undecodable
    write_mask("train/i002.png", truth(2)[0][:, :-4])  # 2: mask of another size
    strange = truth(3)[0]
    strange[0, 0] = 9
    write_mask("train/i003.png", strange)  # 3: a value that is no class
    (masks / "val/i104.png").unlink()  # 4: no mask
    write_mask("train/i005.png", np.zeros((HEIGHT, WIDTH), np.uint8))  # 5: nothing labelled
    (instances / "train/i005.png").unlink()
    ids = truth(6)[1]
    ids[30, 50:53] = 7  # 6: an instance of three pixels
    Image.fromarray(ids).save(instances / "train/i006.png")
    for folder in (images, masks, instances):  # 7: a train image in val
        shutil.copy(folder / "train/i007.png", folder / "val/i207.png")
        shutil.copy(folder / "train/i008.png", folder / "val/i208.png")
    darker = (picture(8) * 0.85).astype(np.uint8)
    Image.fromarray(darker).save(images / "val/i208.png")  # 8: nearly a train image in val
    Image.fromarray(picture(9)).convert("CMYK").save(images / "train/i009.jpg", quality=95)  # 9: CMYK
    (images / "train/i009.png").unlink()
    grey = 128 + np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(grey).save(images / "train/i010.png")  # 10: the lens cap was on
    return {
        "quarantined": {f"images/{name}.png" for name in ("train/i001", "train/i002", "train/i003", "val/i104")},
        "empty_mask": {"images/train/i005.png"},
        "instance_tiny": {"images/train/i006.png"},
        "duplicate_across_splits": {"images/val/i207.png"},
        "near_duplicate_across_splits": {"images/val/i208.png"},
        "odd_mode": {"images/train/i009.jpg"},
        "near_constant": {"images/train/i010.png"},
    }
