import numpy as np
import pytest
from PIL import Image

from segtasks.errors import ShapeError
from segtasks.transforms.resize import resize_image, resize_mask

SIZES = [((36, 48), (18, 24)), ((37, 53), (20, 31)), ((20, 31), (36, 53)), ((7, 5), (1, 1)), ((1, 9), (4, 3))]


def photo(height, width, seed=0):
    smooth = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_an_image_is_resized_as_pillow_does_it_within_one_level(source, target):
    image = photo(*source)
    expected = np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BILINEAR))
    found = resize_image(image, *target)
    assert found.shape == (*target, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_a_mask_is_resized_exactly_as_pillow_does_it(source, target):
    mask = np.random.default_rng(1).integers(0, 256, source, dtype=np.uint8)
    expected = np.asarray(Image.fromarray(mask).resize(target[::-1], Image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize_mask(mask, *target), expected)


def test_a_centre_between_two_pixels_takes_the_second_where_pillow_rounds_either_way():
    assert resize_mask(np.arange(20, dtype=np.uint8)[:, None], 37, 1)[18, 0] == 10  # (18 + 1/2) * 20 / 37 is exactly 10


def test_a_sixteen_bit_mask_keeps_its_type_and_values():
    mask = np.array([[300, 65535], [0, 1]], np.uint16)
    resized = resize_mask(mask, 4, 4)
    assert resized.dtype == np.uint16
    np.testing.assert_array_equal(resized, np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1))


def test_the_same_size_is_the_same_array():
    image, mask = photo(8, 9), np.zeros((8, 9), np.uint8)
    assert resize_image(image, 8, 9) is image
    assert resize_mask(mask, 8, 9) is mask


def test_flipped_cropped_and_read_only_images_give_the_same_pixels():
    image = photo(40, 60)
    part = image[3:33, 50:10:-1]
    frozen = np.ascontiguousarray(part)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(resize_image(part, 11, 13), resize_image(frozen, 11, 13))


def test_what_is_no_image_or_mask_is_refused_with_its_shape():
    with pytest.raises(ShapeError, match=r"float32 of shape \(4, 4, 3\)"):
        resize_image(np.zeros((4, 4, 3), np.float32), 2, 2)
    with pytest.raises(ShapeError, match=r"\(4, 4, 1\)"):
        resize_mask(np.zeros((4, 4, 1), np.uint8), 2, 2)
