"""Sample data made on the spot, by seed: scikit-learn's handwritten digits on photographs that ship with scikit-learn and
scikit-image. Nothing is downloaded. The layout is the `folder` reader's, with semantic masks and instances.

The validation split has other digits and other photographs than the training split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtasks.codecs.image import encode_jpeg
from segtasks.codecs.mask import encode_mask
from segtasks.errors import InputError, MissingExtra
from segtasks.storage import Store, open_store

CLASSES = ("background", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLORS = (
    (0, 0, 0), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
_PHOTOGRAPHS = {"train": ("china", "astronaut", "coffee", "motorcycle", "retina"), "val": ("flower", "chelsea", "rocket")}
_VAL_DIGITS_FROM = 1437  # of 1797; they are in order of writer, so the last fifth is mostly by other hands
_RIM = 4  # pixels
_VERSION = 1  # raised when the same seed gives other bytes

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Image uint8 HxWx3, class indices uint8 HxW and instance ids uint16 HxW (0: none)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    instances: NDArray[np.uint16]


def write_sample(target: str | Store, *, seed: int = 0, train: int = 240, val: int = 60, size: tuple[int, int] = (192, 256)) -> int:
    """Write `train` + `val` images of `size` (height, width) and their labels; returns how many there are.

    The same arguments give the same bytes, so a second call finds everything done and an interrupted one goes on.
    `InputError` where the target holds something else, `MissingExtra` without scikit-learn and scikit-image.
    """
    store = open_store(target) if isinstance(target, str) else target
    description = _description(seed, train, val, size).encode()
    try:
        done = store.read("dataset.yaml")
    except FileNotFoundError:
        done = None
    if done is not None and done != description:
        raise InputError(f"{store.url} holds another data set (its dataset.yaml differs); needed: an empty folder, or the same settings")
    if done is None:
        for split, count in (("train", train), ("val", val)):
            for number, scene in enumerate(make_scenes(split, count, seed=seed, size=size)):
                name = f"{split}/{number:04d}"
                _put(store, f"masks/{name}.png", encode_mask(scene.mask, COLORS))
                _put(store, f"instances/{name}.png", encode_mask(scene.instances, ()))
                _put(store, f"images/{name}.jpg", encode_jpeg(scene.image, quality=95))
        _put(store, "dataset.yaml", description)  # last: it says that all the rest is there
    return train + val


def make_scenes(split: str, count: int, *, seed: int = 0, size: tuple[int, int] = (192, 256)) -> Iterator[Scene]:
    """`count` scenes of the split. Scene n depends on (seed, split, n) alone, however many are made."""
    digits, values = _digits(split)
    photographs = [_photograph(name) for name in _PHOTOGRAPHS[split]]
    for number in range(count):
        random = np.random.default_rng([_VERSION, seed, list(_PHOTOGRAPHS).index(split), number])
        yield _compose(random, digits, values, photographs[number % len(photographs)], size)


def _compose(
    random: np.random.Generator, digits: Pixels, values: NDArray[np.int64], photograph: Image.Image, size: tuple[int, int]
) -> Scene:
    canvas = _crop(random, photograph, size)
    mask = np.zeros(size, np.uint8)
    instances = np.zeros(size, np.uint16)
    for instance in range(1, int(random.integers(9, 14))):
        which = int(random.integers(len(digits)))
        coverage = _render(random, digits[which], random.uniform(0.26, 0.36) * size[0])
        inside = coverage > 0.5
        box = _free_place(random, instances, inside)
        if box is None:
            continue
        canvas[box] = _paint(random, canvas[box], coverage)
        mask[box][inside] = values[which] + 1
        instances[box][inside] = instance
    noise = random.normal(0, random.uniform(0, 0.02), canvas.shape)
    image = np.clip(np.rint(255 * (canvas + noise)), 0, 255).astype(np.uint8)
    return Scene(image, mask, instances)


def _free_place(random: np.random.Generator, instances: NDArray[np.uint16], inside: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """A box in which the digit covers no other one; None where 20 tries find none."""
    rows, columns = inside.shape
    height, width = instances.shape
    if not inside.any() or rows > height or columns > width:
        return None
    for _ in range(20):
        top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
        box = np.s_[top : top + rows, left : left + columns]
        if not instances[box][inside].any():
            return box
    return None


def _crop(random: np.random.Generator, photograph: Image.Image, size: tuple[int, int]) -> Pixels:
    """A part of the photograph at a random scale, mirrored half of the time; RGB of 0..1."""
    scale = random.uniform(0.5, 1.0) * min(photograph.height / size[0], photograph.width / size[1])  # of its pixels to ours
    rows, columns = scale * size[0], scale * size[1]
    top, left = random.uniform(0, photograph.height - rows), random.uniform(0, photograph.width - columns)
    box = (left, top, left + columns, top + rows)
    part = np.asarray(photograph.resize((size[1], size[0]), Image.Resampling.BILINEAR, box)) / np.float32(255)
    return np.array(part[:, ::-1] if random.random() < 0.5 else part)


def _render(random: np.random.Generator, digit: Pixels, tall: float) -> Pixels:
    """Coverage 0..1 of the 8x8 digit, smoothly enlarged to about `tall` pixels, turned, slanted, thinned; cut to its box and a rim."""
    from scipy import ndimage  # type: ignore[import-untyped]

    ink = np.pad(digit, 2)  # room for the strokes' round ends
    angle, slant = random.uniform(-0.2, 0.2), random.uniform(-0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_digit = 8 / tall * turn @ np.array([[1, 0], [slant, random.uniform(0.85, 1.2)]])
    side = int(1.6 * tall)
    offset = np.array([5.5, 5.5]) - to_digit @ np.array([(side - 1) / 2] * 2)
    enlarged = ndimage.affine_transform(ink, to_digit, offset, (side, side), order=3, mode="constant")
    coverage: Pixels = np.clip((enlarged - random.uniform(0.32, 0.48)) / 0.12 + 0.5, 0, 1).astype(np.float32)
    rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
    if not rows.size:
        return coverage[:0, :0]
    return np.pad(coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], _RIM)


def _paint(random: np.random.Generator, under: Pixels, coverage: Pixels) -> Pixels:
    """Light ink of any hue with a dark rim, shaded from one corner to the other, more or less opaque."""
    from scipy import ndimage

    rows, columns = coverage.shape
    slope = random.uniform(-0.1, 0.1, 2)
    shade = slope[0] * np.linspace(-1, 1, rows)[:, None] + slope[1] * np.linspace(-1, 1, columns)[None]
    ink = np.clip(random.uniform(0.55, 1, 3) + shade[:, :, None], 0, 1)
    rim = np.clip(1.6 * ndimage.gaussian_filter(coverage, _RIM / 3), 0, 1)[:, :, None] * random.uniform(0.5, 0.9)
    weight = coverage[:, :, None] * random.uniform(0.8, 1.0)
    painted: Pixels = ((under * (1 - rim)) * (1 - weight) + ink * weight).astype(np.float32)
    return painted


def _digits(split: str) -> tuple[Pixels, NDArray[np.int64]]:
    """8x8 images of 0..1 and the digit each one shows."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing(error) from error
    found = load_digits()
    part = np.s_[_VAL_DIGITS_FROM:] if split == "val" else np.s_[:_VAL_DIGITS_FROM]
    return (found.images[part] / 16).astype(np.float32), found.target[part].astype(np.int64)


def _photograph(name: str) -> Image.Image:
    try:
        import skimage.data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise _missing(error) from error
    if name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
    elif name == "motorcycle":
        pixels = skimage.data.stereo_motorcycle()[0]  # type: ignore[no-untyped-call]
    else:
        pixels = getattr(skimage.data, name)()
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))


def _missing(error: ImportError) -> MissingExtra:
    return MissingExtra(f"the sample needs scikit-learn and scikit-image ({error}): pip install 'segtasks[demo]'")


def _description(seed: int, train: int, val: int, size: tuple[int, int]) -> str:
    classes = "".join(f"  - {{name: {name}, color: {list(color)}}}\n" for name, color in zip(CLASSES, COLORS))
    made = f"# segtasks sample {_VERSION}: seed {seed}, {train} train, {val} val, {size[0]}x{size[1]}"
    return f"{made}\nname: digits on photographs\nclasses:\n{classes}ignore: []\n"


def _put(store: Store, path: str, data: bytes) -> None:
    if not store.create(path, data) and store.read(path) != data:
        raise InputError(f"{store.url_of(path)} is there already with other contents; needed: an empty folder")
