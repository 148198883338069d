from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.fft
from PIL import Image

from segtasks.checks.phash import perceptual_hash
from segtasks.checks.pixels import pixel_facts, storage_traits


def scene(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth picture: noise of 8x8 drawn large."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def differing_bits(some: np.ndarray, other: np.ndarray) -> int:
    return (perceptual_hash(Image.fromarray(some)) ^ perceptual_hash(Image.fromarray(other))).bit_count()


def test_the_hash_is_the_sign_of_scipys_lowest_frequencies() -> None:
    image = Image.fromarray(scene(1))
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    frequencies = scipy.fft.dctn(grey, type=2)[:8, :8].reshape(-1)
    bits = frequencies > np.median(frequencies[1:])
    assert perceptual_hash(image) == int("".join("1" if bit else "0" for bit in bits), 2)


def test_a_copy_of_other_size_quality_and_brightness_is_close_and_another_picture_is_not() -> None:
    picture = scene(1)
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=30)
    copies = {
        "recompressed": np.asarray(Image.open(data)),
        "shrunk": np.asarray(Image.fromarray(picture).resize((40, 30), Image.Resampling.BICUBIC)),
        "darker": (picture * 0.8).astype(np.uint8),
    }
    assert {name: differing_bits(picture, copy) <= 4 for name, copy in copies.items()} == dict.fromkeys(copies, True)
    assert min(differing_bits(picture, scene(seed)) for seed in range(2, 40)) > 10


def test_mean_and_spread_are_numpys_and_of_the_channel_that_varies_most() -> None:
    pixels = scene(2)
    facts = pixel_facts(pixels)
    assert facts.mean == pytest.approx(pixels.mean())
    assert facts.std == pytest.approx(max(pixels[:, :, channel].std() for channel in range(3)))
    red = np.zeros((5, 7, 3), np.uint8)
    red[:, :, 0] = 255
    assert pixel_facts(red).std == 0


def test_the_hash_of_pixels_knows_the_shape_too() -> None:
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert pixel_facts(pixels).sha256 == pixel_facts(pixels.copy()).sha256
    assert pixel_facts(pixels).sha256 != pixel_facts(pixels.reshape(4, 3, 3)).sha256


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({}, ""),
        ({"camera": "left"}, ""),
        ({"mode": "CMYK"}, "CMYK"),
        ({"mode": "L"}, "grey"),
        ({"mode": "P", "alpha": "ignored"}, "palette, alpha"),
        ({"mode": "RGBA"}, "alpha"),
        ({"mode": "I;16", "bit_depth": "16", "scaling": "full_range"}, "grey, 16 bits"),
        ({"exif_orientation": "6"}, "turned by EXIF (6)"),
        ({"exif": "unreadable", "frames": "first of several"}, "EXIF unreadable, several frames"),
    ],
)
def test_how_an_image_was_stored_is_said_in_words(meta: dict[str, str], said: str) -> None:
    assert storage_traits(meta) == said
