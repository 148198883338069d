import numpy as np
import pytest
from pydantic import ValidationError

from segtasks.transforms.tile import Tile, Tiling, keeps_empty, plan_tiles

SIZES = [(100, 130), (64, 64), (65, 63), (40, 200), (1, 1), (63, 64)]


def numbered(height, width):
    return np.arange(height * width, dtype=np.uint16).reshape(height, width)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 1, 16, 63])
@pytest.mark.parametrize("edge", ["shift", "pad"])
def test_every_pixel_is_in_a_tile_and_neighbours_overlap(size, overlap, edge):
    tiles = plan_tiles(*size, Tiling(height=64, width=64, overlap=overlap, edge=edge))
    covered = np.zeros(size, int)
    for tile in tiles:
        covered[tile.top : tile.top + 64, tile.left : tile.left + 64] += 1
    assert covered.min() >= 1
    for values in ({tile.top for tile in tiles}, {tile.left for tile in tiles}):
        steps = np.diff(sorted(values))
        assert (steps <= 64 - overlap).all()
        assert (steps > 0).all()
    assert len({(tile.top, tile.left) for tile in tiles}) == len(tiles)
    bottoms, rights = max(tile.top for tile in tiles) + 64, max(tile.left for tile in tiles) + 64
    if edge == "shift":
        assert (bottoms, rights) == (max(64, size[0]), max(64, size[1]))


@pytest.mark.parametrize("overlap", [0, 4])
def test_where_tiles_fit_they_are_numpys_sliding_windows(overlap):
    image = numbered(36 + overlap, 48 + overlap)
    step = 12
    tiles = plan_tiles(*image.shape, Tiling(height=step + overlap, width=step + overlap, overlap=overlap))
    windows = np.lib.stride_tricks.sliding_window_view(image, (step + overlap, step + overlap))[::step, ::step]
    assert len(tiles) == 12
    for tile, window in zip(tiles, windows.reshape(-1, *windows.shape[2:]), strict=True):
        np.testing.assert_array_equal(tile.cut_mask(image, 0), window)


def test_ids_say_the_place_and_do_not_depend_on_neighbours():
    ids = [tile.id_of("a/b.png") for tile in plan_tiles(100, 1000, Tiling(height=64, width=512))]
    assert ids == ["a/b.png#y=0000,x=0000", "a/b.png#y=0000,x=0488", "a/b.png#y=0036,x=0000", "a/b.png#y=0036,x=0488"]
    assert Tile(12_000, 3, 4, 4).id_of("a") == "a#y=12000,x=0003"


def test_what_is_outside_the_image_is_padding():
    image = np.full((3, 5, 3), 9, np.uint8)
    tile = Tile(1, 4, 4, 3)
    assert tile.cut_image(image, (1, 2, 3))[:2, :1].tolist() == [[[9, 9, 9]]] * 2
    assert (tile.cut_image(image, (1, 2, 3))[2:] == (1, 2, 3)).all()
    mask = tile.cut_mask(numbered(3, 5), 99)
    assert mask.tolist() == [[9, 99, 99], [14, 99, 99], [99, 99, 99], [99, 99, 99]]
    assert tile.rows(3).tolist() == [1, 2, -1, -1]
    assert tile.columns(5).tolist() == [4, -1, -1]


def test_the_stated_share_of_empty_tiles_is_kept_and_a_larger_share_keeps_those_too():
    ids = [Tile(number, 0, 8, 8).id_of("image.png") for number in range(4000)]
    kept = {share: {one for one in ids if keeps_empty(one, Tiling(height=8, width=8, keep_empty=share))} for share in (0, 0.1, 0.3, 1)}
    assert len(kept[0]) == 0
    assert 330 <= len(kept[0.1]) <= 470
    assert kept[0.1] < kept[0.3]
    assert len(kept[1]) == 4000


def test_an_overlap_that_does_not_move_on_is_refused():
    with pytest.raises(ValidationError, match="overlap 8 of tiles 8x9; needed: less than the shorter side"):
        Tiling(height=8, width=9, overlap=8)
