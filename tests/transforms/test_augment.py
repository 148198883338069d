import hashlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from pydantic import ValidationError

from segtasks.transforms.augment import augment, jitter_color
from segtasks.transforms.config import AugmentConfig
from segtasks.transforms.seeding import stable_seed

STILL = {"scale": (1.0, 1.0), "flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
FILL = (124, 116, 104)


def numbered(height, width):
    """An image whose red and green say which pixel it is, and a mask that says the same modulo 200."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1), (rows.astype(int) * 7 + columns * 3).astype(np.uint8) % 200


def run(image, mask, key=(0, 0, "a"), **settings):
    return augment(image, mask, AugmentConfig(**{**STILL, **settings}), key=key, fill=FILL, ignore_index=255)


def test_a_seed_is_the_hash_of_its_key_in_every_process():
    assert stable_seed(3, 1, "a/b.png") == int.from_bytes(hashlib.blake2b(b"3\x1f1\x1fa/b.png", digest_size=8).digest(), "little")


def test_the_same_key_gives_the_same_bytes_and_every_part_of_it_matters():
    image, mask = numbered(20, 30)
    config = AugmentConfig(scale=(0.5, 2))

    def made(*key):
        image_out, mask_out = augment(image, mask, config, key=key, fill=FILL, ignore_index=255)
        return image_out.tobytes() + mask_out.tobytes()

    assert made(0, 1, "a") == made(0, 1, "a")
    assert len({made(0, 1, "a"), made(1, 1, "a"), made(0, 2, "a"), made(0, 1, "b")}) == 4


def test_crop_takes_the_same_pixels_of_image_and_mask():
    image, mask = numbered(20, 30)
    places = set()
    for number in range(20):
        cropped, cropped_mask = run(image, mask, (0, number, "a"), crop=(8, 12))
        top, left = int(cropped[0, 0, 0]), int(cropped[0, 0, 1])
        np.testing.assert_array_equal(cropped, image[top : top + 8, left : left + 12])
        np.testing.assert_array_equal(cropped_mask, mask[top : top + 8, left : left + 12])
        places.add((top, left))
    assert len(places) > 10


def test_a_flip_mirrors_both_and_comes_as_often_as_asked():
    image, mask = numbered(6, 9)
    flips = 0
    for number in range(400):
        flipped, flipped_mask = run(image, mask, (0, number, "a"), flip=0.25)
        if flipped[0, 0, 1] != 0:
            np.testing.assert_array_equal(flipped, image[:, ::-1])
            np.testing.assert_array_equal(flipped_mask, mask[:, ::-1])
            flips += 1
        else:
            np.testing.assert_array_equal(flipped, image)
    assert 70 <= flips <= 130


def test_a_crop_larger_than_the_image_is_padded_with_fill_and_ignore():
    image, mask = numbered(6, 9)
    padded, padded_mask = run(image, mask, crop=(10, 9))
    inside = padded_mask != 255
    assert inside.sum() == 54
    np.testing.assert_array_equal(padded[inside].reshape(6, 9, 3), image)
    assert {tuple(pixel) for pixel in padded[~inside]} == {FILL}


@pytest.mark.parametrize("zoom", [0.6, 1.7])
def test_zoom_keeps_image_and_mask_on_top_of_each_other(zoom):
    rows, columns = np.mgrid[:60, :80]
    mask = ((rows - 25) ** 2 + (columns - 45) ** 2 < 300).astype(np.uint8)
    image = np.repeat((mask * 200)[..., None], 3, axis=2)
    for number in range(5):
        zoomed, zoomed_mask = run(image, mask, (0, number, "a"), scale=(zoom, zoom))
        valid = zoomed_mask != 255
        assert zoomed.shape == image.shape
        disagree = (zoomed[..., 0] > 100)[valid] != (zoomed_mask == 1)[valid]
        # only pixels that the edge runs through: the disc's outline has about 2 pi r of them
        assert disagree.sum() <= 0.05 * max(1, (zoomed_mask == 1).sum())
    ratio = (zoomed_mask == 1).sum() / mask.sum()
    if zoom < 1:
        assert valid.sum() == 36 * 48
        assert ratio == pytest.approx(zoom**2, rel=0.05)


def test_zoom_is_drawn_over_the_whole_range():
    image, mask = numbered(40, 40)
    sides = [int(np.sqrt((run(image, mask, (0, number, "a"), scale=(0.5, 1.0))[1] != 255).sum())) for number in range(200)]
    assert min(sides) <= 21
    assert max(sides) >= 39
    assert np.median(sides) == pytest.approx(40 / np.sqrt(2), abs=2)  # log-uniform


def test_an_ignore_value_above_255_widens_the_mask_only_where_it_is_needed():
    image, mask = numbered(6, 9)
    config = AugmentConfig(**{**STILL, "crop": (10, 9)})
    padded = augment(image, mask, config, key=(0,), fill=FILL, ignore_index=65535)[1]
    assert padded.dtype == np.uint16
    assert (padded == 65535).sum() == 36


@pytest.mark.parametrize(("brightness", "contrast", "saturation"), [(1.2, 1, 1), (1, 0.8, 1), (1, 1.2, 1), (1, 1, 0.7), (0.9, 1.1, 1.2)])
def test_colour_changes_as_pillows_enhancers_change_it(brightness, contrast, saturation):
    image = np.random.default_rng(0).integers(60, 170, (30, 40, 3), dtype=np.uint8)  # nothing clips on the way
    expected = Image.fromarray(image)
    for enhancer, factor in ((ImageEnhance.Brightness, brightness), (ImageEnhance.Color, saturation), (ImageEnhance.Contrast, contrast)):
        expected = enhancer(expected).enhance(factor)
    found = jitter_color(image, brightness, contrast, saturation)
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 3  # Pillow rounds down three times


def test_colour_clips_instead_of_wrapping():
    image = np.full((2, 2, 3), 250, np.uint8)
    assert jitter_color(image, 1.2, 1, 1).tolist() == np.full((2, 2, 3), 255).tolist()


def test_the_source_is_left_as_it_was():
    image, mask = numbered(20, 30)
    before = image.copy(), mask.copy()
    augment(image, mask, AugmentConfig(), key=(0, 0, "a"), fill=FILL, ignore_index=255)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_an_impossible_range_is_refused_in_words():
    with pytest.raises(ValidationError, match="two positive numbers, the smaller first"):
        AugmentConfig(scale=(2, 1))
