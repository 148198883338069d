import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco

from segtasks.codecs import rle
from segtasks.errors import LabelError
from segtasks.spec import Resize
from segtasks.transforms.fit import fit_mask, plan_fit
from segtasks.transforms.instances import Objects
from segtasks.transforms.tile import Tile, Tiling, plan_tiles

SIZE = (37, 53)
RESIZES = [
    {"height": 20, "width": 31},
    {"height": 90, "width": 71},
    {"policy": "letterbox", "height": 40, "width": 41},
    {"policy": "longest", "size": 17},
    {"policy": "shortest", "size": 61},
]


def blobs(seed, count=12):
    """Masks that overlap, some of one pixel, one over the whole image."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = [np.ones(SIZE, bool)]
    for number in range(count):
        y, x, radius = random.integers(0, SIZE[0]), random.integers(0, SIZE[1]), random.integers(0, 12)
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        masks.append(disc & (random.random(SIZE) < 0.7) if number % 3 == 0 and radius else disc)
    return [mask for mask in masks if mask.any()]


def instance(mask, number=1, **more):
    height, width = mask.shape
    return {"category_id": number, "bbox": [0.0, 0.0, 1.0, 1.0], "area": 3.5, "iscrowd": False, "size": [height, width],
            "counts": rle.encode(mask), **more}  # fmt: skip


def require_is(found, mask):
    """`found` is this mask, by pycocotools' own decoding, box and area."""
    given = {"size": list(mask.shape), "counts": found["counts"]}
    assert found["size"] == list(mask.shape)
    np.testing.assert_array_equal(coco.decode(given).astype(bool), mask)
    assert found["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert found["bbox"] == coco.toBbox(given).tolist()
    assert found["area"] == float(coco.area(given))


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("seed", range(5))
def test_an_object_is_resized_exactly_as_a_mask_of_it_alone(resize, seed):
    fit = plan_fit(*SIZE, Resize(**resize))
    masks = blobs(seed)
    found = Objects([instance(mask, number) for number, mask in enumerate(masks)], *SIZE).moved(fit.rows(SIZE[0]), fit.columns(SIZE[1]))
    expected = {number: fit_mask(mask.astype(np.uint8), fit, 0).astype(bool) for number, mask in enumerate(masks)}
    expected = {number: mask for number, mask in expected.items() if mask.any()}
    assert [one["category_id"] for one in found] == list(expected)
    for one in found:
        require_is(one, expected[one["category_id"]])


@pytest.mark.parametrize("edge", ["shift", "pad"])
def test_an_object_is_cut_into_tiles_exactly_as_a_mask_of_it_alone(edge):
    masks = blobs(7)
    objects = Objects([instance(mask, number) for number, mask in enumerate(masks)], *SIZE)
    for tile in [*plan_tiles(*SIZE, Tiling(height=16, width=20, overlap=5, edge=edge)), Tile(0, 0, 50, 60)]:
        expected = {number: tile.cut_mask(mask.astype(np.uint8), 0).astype(bool) for number, mask in enumerate(masks)}
        expected = {number: mask for number, mask in expected.items() if mask.any()}
        found = objects.moved(tile.rows(SIZE[0]), tile.columns(SIZE[1]))
        assert [one["category_id"] for one in found] == list(expected)
        for one in found:
            require_is(one, expected[one["category_id"]])


def test_crowds_overlaps_and_other_columns_stay():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    given = [instance(mask, 5, iscrowd=True, score=0.5), instance(mask, 6)]
    rows = np.array([-1, 0, 1, 2, 3])
    found = Objects(given, 4, 4).moved(rows, np.arange(4))
    assert [(one["category_id"], one["iscrowd"], one.get("score")) for one in found] == [(5, True, 0.5), (6, False, None)]
    assert found[0]["counts"] == found[1]["counts"]
    assert found[0]["bbox"] == [1.0, 2.0, 2.0, 2.0]
    assert given[0]["bbox"] == [0.0, 0.0, 1.0, 1.0]


def test_no_object_and_one_without_a_pixel_give_none():
    everything = np.arange(4), np.arange(4)
    assert Objects([], 4, 4).moved(*everything) == []
    assert Objects([instance(np.zeros((4, 4), bool))], 4, 4).moved(*everything) == []
    assert Objects([instance(np.ones((4, 4), bool))], 4, 4).moved(np.full(3, -1), np.arange(4)) == []


def test_counts_of_another_size_are_refused():
    with pytest.raises(LabelError, match=r"an instance is 4x4, its image 4x5 \(height x width\)"):
        Objects([instance(np.ones((4, 4), bool))], 4, 5)
    broken = {**instance(np.ones((4, 4), bool)), "counts": rle.encode(np.ones((4, 3), bool))}
    with pytest.raises(LabelError, match="do not make a mask of 4x4"):
        Objects([broken], 4, 4)


def test_a_small_object_of_a_large_image_takes_the_memory_of_its_box():
    height = width = 20_000
    mask = np.ones((30, 40), bool)
    one = {**instance(mask), "size": [height, width], "counts": rle.encode_at(mask, 15_000, 3_000, height, width)}
    fit = plan_fit(height, width, Resize(height=10_000, width=10_000))
    rows, columns = fit.rows(height), fit.columns(width)
    tracemalloc.start()
    (found,) = Objects([one], height, width).moved(rows, columns)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found["bbox"], found["area"]) == ([1500.0, 7500.0, 20.0, 15.0], 300.0)
    assert peak < 2 << 20  # as a whole 400 MB
