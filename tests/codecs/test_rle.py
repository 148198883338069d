from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pycocotools import mask as coco

from segtasks.codecs import rle
from segtasks.errors import LabelError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

masks = st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=30))
label_images = st_numpy.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int32]),
    st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.integers(0, 4),
)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_counts_area_and_box_equal_pycocotools(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    height, width = mask.shape
    counts = rle.encode(mask)
    assert counts == theirs["counts"]
    assert rle.area(counts, height, width) == coco.area(theirs) == mask.sum()
    assert rle.bbox(counts, height, width) == tuple(coco.toBbox(theirs))
    back = rle.decode(counts, height, width)
    assert back.dtype == np.bool_
    np.testing.assert_array_equal(back, coco.decode(theirs).astype(bool))


@settings(max_examples=100, deadline=None)
@given(label_images)
def test_regions_equal_one_mask_at_a_time(labels: np.ndarray) -> None:
    regions = rle.encode_regions(labels)
    assert [region.value for region in regions] == [value for value in np.unique(labels).tolist() if value]
    for region in regions:
        theirs = coco.encode(np.asfortranarray((labels == region.value).astype(np.uint8)))
        assert region.counts == theirs["counts"]
        assert region.area == coco.area(theirs)
        assert region.bbox == tuple(coco.toBbox(theirs))


def test_cut_counts_are_refused_instead_of_filled_with_memory() -> None:
    mask = np.random.default_rng(0).random((40, 50)) > 0.5
    counts = rle.encode(mask)
    for cut in range(len(counts)):
        for read in (rle.decode, rle.area, rle.bbox):
            with pytest.raises(LabelError, match=r"do not make a mask of 40x50 pixels .*cut off"):
                read(counts[:cut], 40, 50)


def test_counts_of_another_size_and_garbage_are_refused() -> None:
    counts = rle.encode(np.ones((4, 5), bool))
    with pytest.raises(LabelError):
        rle.decode(counts, 5, 5)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        garbage = bytes(random.integers(0, 256, random.integers(0, 12)).astype(np.uint8))
        try:
            assert set(np.unique(rle.decode(garbage, 4, 5).view(np.uint8)).tolist()) <= {0, 1}
        except LabelError:
            refused += 1
    assert refused > 2900


def test_no_mask_at_all_is_refused() -> None:
    with pytest.raises(ShapeError):
        rle.encode(np.zeros((0, 5), bool))
    with pytest.raises(ShapeError):
        rle.encode_regions(np.zeros((3, 3, 3), np.uint8))


polygons = st.lists(st.tuples(st.floats(-9, 40), st.floats(-9, 40)), min_size=3, max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.lists(polygons, min_size=1, max_size=3), st.integers(1, 30), st.integers(1, 30))
def test_polygons_cover_the_pixels_that_pycocotools_sets(parts: list[list[tuple[float, float]]], height: int, width: int) -> None:
    flat = [[float(value) for corner in part for value in corner] for part in parts]
    theirs = coco.merge(coco.frPyObjects(flat, height, width))
    assert rle.encode_polygons(flat, height, width) == theirs["counts"]


@pytest.mark.parametrize("part", [[1, 1, 2, 2], [1, 1, 2, 2, 3], [1, 1, 2, float("nan"), 3, 3], [1, 1, 1e300, 2, 3, 3], [[1, 1], [2, 2]]])
def test_what_is_no_polygon_is_refused(part: list[float]) -> None:
    with pytest.raises(LabelError, match="needed: x, y of at least three"):
        rle.encode_polygons([part], 8, 8)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_uncompressed_runs_give_the_same_counts(mask: np.ndarray) -> None:
    counts = rle.encode(mask)
    assert rle.encode_runs(rle.runs(counts, *mask.shape).tolist(), *mask.shape) == counts


@pytest.mark.parametrize("runs", [[3, 4], [-1, 65], [64.5], "64", [[64]], [[1], [2, 3]], [10**30]])
def test_runs_of_another_image_are_refused(runs: object) -> None:
    with pytest.raises(LabelError):
        rle.encode_runs(runs, 8, 8)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
def test_a_union_has_the_pixels_of_all(bits: list[int]) -> None:
    parts = [rle.encode(np.array([int(bit) for bit in f"{number:064b}"], bool).reshape(8, 8)) for number in bits]
    assert rle.union(parts, 8, 8) == coco.merge([{"size": [8, 8], "counts": part} for part in parts])["counts"]
    with pytest.raises(LabelError, match="do not make a mask of 9x9"):
        rle.union([*parts, parts[0]], 9, 9)
