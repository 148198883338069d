from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segtasks.reporting.overlay import IGNORED, WRONG, borders, error_map, fit, overlay, panels, tile
from segtasks.spec import ClassSpec, DatasetSpec
from tests.reporting.worlds import spec_of


def test_classes_are_blended_and_ignored_pixels_keep_the_image():
    image = np.full((2, 3, 3), 100, np.uint8)
    mask = np.array([[0, 1, 255], [0, 1, 255]], np.uint8)
    drawn = overlay(image, mask, spec_of("a", "b"), alpha=0.25, contour=False)
    assert drawn[:, 0].tolist() == [[139, 75, 75]] * 2  # 0.75 * 100 + 0.25 * (255, 0, 0), rounded
    assert drawn[:, 1].tolist() == [[75, 139, 75]] * 2
    assert drawn[:, 2].tolist() == [[100, 100, 100]] * 2


def test_a_regions_border_has_its_full_colour():
    mask = np.zeros((5, 6), np.uint8)
    mask[:, 3:] = 1
    drawn = overlay(np.full((5, 6, 3), 100, np.uint8), mask, spec_of("a", "b"))
    assert drawn[0, 2].tolist() == [255, 0, 0]
    assert drawn[0, 1].tolist() == [178, 50, 50]
    assert drawn[0, 3].tolist() == [50, 178, 50]


def test_borders_lie_left_of_and_above_a_change():
    mask = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert borders(mask).astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]


def test_masks_of_sixteen_bits_are_drawn_in_their_classes_colours():
    spec = DatasetSpec(
        name="made", classes=tuple(ClassSpec(name=f"{i}", color=(i // 256, i % 256, 7)) for i in range(300)), ignore_index=65535
    )
    drawn = overlay(np.zeros((1, 3, 3), np.uint8), np.array([[299, 4, 65535]], np.uint16), spec, alpha=1)
    assert drawn[0].tolist() == [[1, 43, 7], [0, 4, 7], [0, 0, 0]]


def test_the_error_map_marks_what_is_wrong_and_what_does_not_count():
    image = np.zeros((1, 4, 3), np.uint8)
    drawn = error_map(image, np.array([[0, 0, 255, 1]], np.uint8), np.array([[0, 1, 0, 255]], np.uint8), spec_of("a", "b"))
    right, wrong, ignored, unassigned = drawn[0].astype(int)
    assert right.tolist() == [127, 127, 127]
    assert wrong.tolist() == unassigned.tolist() == [round(0.2 * 127 + 0.8 * channel) for channel in WRONG]
    assert ignored.tolist() == [round(0.3 * 127 + 0.7 * channel) for channel in IGNORED]


def test_large_pictures_shrink_like_pillows_box_and_masks_keep_their_values():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    mask = random.integers(0, 9, (60, 90)).astype(np.uint16)
    small, (small_mask,) = fit(image, [mask], longest=30)
    assert np.array_equal(small, np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BOX)))
    assert np.array_equal(small_mask, mask[1::3, 1::3])


@pytest.mark.parametrize(("height", "width", "longest"), [(37, 53, 20), (1000, 7, 100)])
def test_masks_shrink_to_the_nearest_pixel_as_in_pillow(height, width, longest):
    mask = np.random.default_rng(0).integers(0, 200, (height, width), dtype=np.uint8)
    image, (small,) = fit(np.zeros((height, width, 3), np.uint8), [mask], longest)
    assert max(small.shape) == longest
    assert image.shape[:2] == small.shape
    assert np.array_equal(small, np.asarray(Image.fromarray(mask).resize(small.shape[::-1], Image.Resampling.NEAREST)))


def test_small_pictures_are_enlarged_by_a_whole_factor():
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    image, (large,) = fit(np.stack([mask] * 3, axis=2), [mask], longest=7)
    assert large.tolist() == np.kron(mask, np.ones((3, 3), int)).tolist()
    assert np.array_equal(image[:, :, 0], large)


def test_panels_are_image_truth_prediction_and_errors_as_far_as_given():
    image, mask, spec = np.zeros((10, 20, 3), np.uint8), np.zeros((10, 20), np.uint8), spec_of("a", "b")
    assert [len(panels(image, spec, *masks)) for masks in ((), (mask,), (None, mask), (mask, mask))] == [1, 2, 2, 4]


def test_a_tile_holds_its_panels_side_by_side():
    image, mask, spec = np.zeros((10, 20, 3), np.uint8), np.zeros((10, 20), np.uint8), spec_of("a", "b")
    drawn = tile(image, spec, mask, mask, longest=20, gap=4)
    assert drawn.shape == (10, 4 * 20 + 3 * 4, 3)
    assert (drawn[:, 20:24] == 255).all()
    assert np.array_equal(drawn[:, 24:44], overlay(image, mask, spec))


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"needed: H x W x 3 and H x W"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), spec_of("a"))
