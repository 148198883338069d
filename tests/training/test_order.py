from itertools import pairwise

import numpy as np
import pytest

from segtasks.errors import ConfigError
from segtasks.training.order import EpochOrder, share


def order(shards, batch_size=8, seed=0, shuffle_bytes=200):
    """Shards of 100 bytes each."""
    return EpochOrder(shards, [100] * len(shards), seed=seed, shuffle_bytes=shuffle_bytes, batch_size=batch_size)


@pytest.mark.parametrize("shards", [[1], [7, 30], [50, 1, 20, 29, 13]])
@pytest.mark.parametrize("batch_size", [3, 8, 200])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_image_comes_exactly_once_an_epoch_on_any_number_of_ranks(shards, batch_size, world):
    plan = order(shards, batch_size)
    for epoch in (0, 5):
        seen = [
            int(index)
            for batch in range(plan.batches)
            for rank in range(world)
            for index in plan.batch(epoch, batch, rank=rank, world=world)
        ]
        assert sorted(seen) == list(range(sum(shards)))


def test_ranks_cut_the_same_batches():
    plan = order([50, 1, 20, 29, 13])
    for batch in range(plan.batches):
        parts = [plan.batch(3, batch, rank=rank, world=3) for rank in range(3)]
        np.testing.assert_array_equal(np.concatenate(parts), plan.batch(3, batch))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("images", "batch_size"), [(367, 8), (9, 8), (8, 8), (5, 8), (100, 33)])
def test_batches_of_an_epoch_differ_by_at_most_one_image(images, batch_size):
    plan = order([images], batch_size)
    sizes = [plan.batch_images(batch) for batch in range(plan.batches)]
    assert sum(sizes) == images
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-images // batch_size)
    assert sizes == [len(plan.batch(0, batch)) for batch in range(plan.batches)]


def test_seed_and_epoch_each_change_the_order_and_nothing_else_does():
    first = order([40, 40]).indices(0, 0, 80)
    np.testing.assert_array_equal(order([40, 40], batch_size=3).indices(0, 0, 80), first)
    assert (order([40, 40]).indices(1, 0, 80) != first).any()
    assert (order([40, 40], seed=1).indices(0, 0, 80) != first).any()


def test_any_piece_of_the_order_can_be_asked_for_alone():
    plan = order([5, 6, 7, 8, 9])
    whole = plan.indices(2, 0, 35)
    for start, stop in [(0, 1), (10, 20), (0, 35), (34, 35), (13, 13)]:
        np.testing.assert_array_equal(order([5, 6, 7, 8, 9]).indices(2, start, stop), whole[start:stop])


def test_an_epoch_goes_through_windows_of_shards_and_reads_each_shard_once():
    shards = [10] * 6
    plan = order(shards, shuffle_bytes=200)
    windows = [frozenset(plan.indices(0, start, start + 20) // 10) for start in range(0, 60, 20)]
    assert all(len(window) == 2 for window in windows)
    assert frozenset.union(*windows) == frozenset(range(6))
    others = [frozenset(plan.indices(1, start, start + 20) // 10) for start in range(0, 60, 20)]
    assert set(others) != set(windows)  # other shards share a window in another epoch


def test_a_data_set_smaller_than_a_window_is_shuffled_as_a_whole():
    first_half = order([10] * 6, shuffle_bytes=600).indices(0, 0, 30)
    assert len(set(first_half // 10)) == 6


def test_a_window_takes_shards_up_to_its_bytes_and_a_large_shard_is_one():
    plan = EpochOrder([1, 1, 1, 1], [50, 50, 1000, 50], seed=0, shuffle_bytes=100, batch_size=1)
    seen = plan.indices(0, 0, 4)
    assert sorted(seen.tolist()) == [0, 1, 2, 3]


def test_more_ranks_than_images_in_a_batch_are_refused_with_both_numbers():
    with pytest.raises(ConfigError, match="5 workers cannot share batches of 4 images"):
        order([12], batch_size=4).require_ranks(5)


def test_shares_cover_everything_in_order():
    ends = [share(10, 4, part) for part in range(4)]
    assert ends[0][0] == 0
    assert ends[-1][1] == 10
    assert all(before[1] == after[0] for before, after in pairwise(ends))
