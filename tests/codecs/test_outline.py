from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy

from segtasks.codecs import rle
from segtasks.codecs.outline import outline, outlines

masks = st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=14))


def outlines_of(mask: np.ndarray) -> list[list[float]]:
    return outlines(rle.encode(mask), *mask.shape)


def area(polygon: list[float]) -> float:
    """The shoelace formula; what is walked there and back counts nothing."""
    x, y = np.array(polygon[0::2]), np.array(polygon[1::2])
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


@settings(max_examples=400, deadline=None)
@given(masks)
def test_filled_again_they_give_the_mask(mask: np.ndarray) -> None:
    counts = rle.encode(mask)
    assert rle.encode_polygons(outlines_of(mask), *mask.shape) == counts
    whole = outline(counts, *mask.shape)
    assert rle.encode_polygons([whole] if whole else [], *mask.shape) == counts


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((6, 8), np.bool_)
    mask[2:5, 3:7] = True
    (polygon,) = outlines_of(mask)
    corners = set(zip(polygon[0::2], polygon[1::2]))
    assert corners == {(3, 2), (7, 2), (7, 5), (3, 5)}
    assert area(polygon) == 12


def test_each_connected_part_has_its_polygon_and_an_empty_mask_none() -> None:
    mask = np.zeros((5, 5), np.bool_)
    assert outlines_of(mask) == []
    mask[0, 0] = mask[1, 1] = mask[4, 3:] = True  # the first two touch at a corner only
    assert sorted(area(polygon) for polygon in outlines_of(mask)) == [1, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_large_masks_with_holes_come_back(seed: int) -> None:
    noise = np.random.default_rng(seed).random((120, 90))
    mask = noise > 0.4
    assert rle.encode_polygons(outlines_of(mask), *mask.shape) == rle.encode(mask)


def test_a_mask_of_thousands_of_holes_or_parts_takes_no_square_of_them() -> None:
    """8 s each when every loop was looked for among all corners, and every part copied what was joined before."""
    parts = np.zeros((1500, 1500), np.bool_)
    parts[6::12, 6::12] = True
    began = time.process_time()
    assert len(outline(rle.encode(~parts), 1500, 1500)) == 2 * (4 + 15625 * 8)  # a hole: there, 4 corners, its first again, and back
    assert len(outline(rle.encode(parts), 1500, 1500)) == 2 * (4 + 15624 * 9)
    assert time.process_time() - began < 5
