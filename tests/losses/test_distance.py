from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from segtasks.losses import _distance
from segtasks.losses._distance import distance_to, fields, inside_distance


@pytest.fixture(params=["opencv", "torch"])
def way(request, monkeypatch):
    """Both ways of a CPU; accelerators go the second."""
    if request.param == "torch":
        monkeypatch.setattr(_distance, "_opencv", lambda: None)
    else:
        pytest.importorskip("cv2")


def random_masks(shape, share, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(shape) < share)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("size", [(1, 1), (1, 23), (23, 1), (2, 2), (7, 9), (9, 7), (33, 64), (65, 31), (40, 40), (3, 300), (300, 3)])
def test_distances_are_scipys(way, size, share):
    seeds = random_masks((5, *size), share)
    seeds[:, size[0] // 2, 0] = True  # SciPy does not say what a mask without background is
    expected = np.stack([distance_transform_edt(~plane) for plane in seeds.numpy()])
    np.testing.assert_allclose(distance_to(seeds).numpy(), expected, atol=1e-4, rtol=1e-7)


@pytest.mark.parametrize("seeds", [[(0, 0)], [(199, 349)], [(3, 348), (198, 2)], [(100, 175), (101, 175)]])
def test_distances_of_few_seeds_in_a_large_mask_are_scipys(way, seeds):
    mask = torch.zeros(1, 200, 350, dtype=torch.bool)
    for y, x in seeds:
        mask[0, y, x] = True
    np.testing.assert_allclose(distance_to(mask)[0].numpy(), distance_transform_edt(~mask[0].numpy()), atol=1e-4, rtol=1e-7)


def test_a_plane_without_a_seed_is_infinitely_far_and_a_full_one_at_0(way):
    seeds = torch.stack([torch.zeros(4, 6), torch.ones(4, 6)]).bool()
    assert distance_to(seeds)[0].isinf().all()
    assert (distance_to(seeds)[1] == 0).all()
    assert distance_to(seeds[:0]).shape == (0, 4, 6)


def test_blocks_meet(monkeypatch):
    """A mask larger than a block, and more masks than a block holds."""
    monkeypatch.setattr(_distance, "_opencv", lambda: None)
    seeds = random_masks((7, 20, 30), 0.01)
    whole = distance_to(seeds)
    for block in (50, 500, 1300):
        monkeypatch.setattr(_distance, "_CPU_BLOCK", block)
        assert torch.equal(distance_to(seeds), whole)


@pytest.mark.parametrize("share", [1e-5, 1e-3, 0.5])
def test_both_ways_give_the_same_bits(monkeypatch, share):
    pytest.importorskip("cv2")
    seeds = random_masks((1, 256, 1100), share, seed=3)
    seeds[0, 0, 0] = True
    by_opencv = distance_to(seeds)
    monkeypatch.setattr(_distance, "_opencv", lambda: None)
    assert torch.equal(by_opencv, distance_to(seeds))


def test_masks_too_large_for_whole_squares_go_by_torch(monkeypatch):
    """At 2000x4 the square of a float32 distance may round to a neighbour."""
    seeds = torch.zeros(1, 2000, 4, dtype=torch.bool)
    seeds[0, 0, 0] = True
    monkeypatch.setattr(_distance, "_opencv", lambda: pytest.fail("asked for OpenCV"))
    np.testing.assert_allclose(distance_to(seeds)[0].numpy(), distance_transform_edt(~seeds[0].numpy()), rtol=1e-7)


def test_fields_are_scipys_distances_to_the_class_from_outside_and_to_any_other_from_inside(way):
    rng = np.random.default_rng(1)
    classes, valid = rng.integers(0, 5, (13, 17)) * 2, rng.random((13, 17)) < 0.7
    found = fields(torch.from_numpy(classes), torch.from_numpy(valid))
    assert found.classes_P.tolist() == [0, 2, 4, 6, 8]
    for place, index in enumerate(found.classes_P.tolist()):
        own, other = (classes == index) & valid, (classes != index) & valid
        expected = np.where(own, distance_transform_edt(~other), distance_transform_edt(~own)) * valid
        np.testing.assert_allclose(found.distance_PHW[place].numpy(), expected, atol=1e-4)
        assert np.array_equal(found.own_PHW[place].numpy(), own)
        np.testing.assert_allclose(inside_distance(torch.from_numpy(classes), torch.from_numpy(valid)).numpy()[own], expected[own])


def test_distances_reach_across_ignored_pixels(way):
    classes = torch.tensor([[0, 0, 9, 9, 1, 1]])
    found = fields(classes, torch.tensor([[True, True, False, False, True, True]]))
    assert found.distance_PHW.squeeze(1).tolist() == [[4, 3, 0, 0, 3, 4], [4, 3, 0, 0, 3, 4]]


@pytest.mark.parametrize("valid", [torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)])
def test_an_image_of_one_class_or_of_none_has_no_boundary(valid):
    found = fields(torch.full((3, 4), 2), valid)
    assert found.classes_P.tolist() == ([2] if valid.any() else [])
    assert (found.distance_PHW == 0).all()
    assert (inside_distance(torch.full((3, 4), 2), valid) == 0).all()
