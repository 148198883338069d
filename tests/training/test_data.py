import threading

import numpy as np
import pytest

from segtasks.errors import CorruptError, InputError
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.training.data import Loader, augmenter, same_size_batches
from segtasks.training.index import index_split
from segtasks.training.statistics import count_class_pixels
from segtasks.transforms.augment import augment
from segtasks.transforms.config import AugmentConfig
from tests.training.world import CLASSES, publish_rows, row, samples, scene, shapes


@pytest.fixture
def snapshot(tmp_path):
    return shapes(open_store(str(tmp_path)))


def test_only_done_rows_are_indexed_in_the_snapshots_order(snapshot):
    index = index_split(snapshot, "train")
    assert [index.image_id(place) for place in range(len(index))] == [f"train/{number:03d}.png" for number in range(12)]
    assert index.size(11) == (24, 32)
    assert index.distinct_sizes() == [(24, 32)]


def test_limit_takes_the_first_images_across_shards(snapshot):
    index = index_split(snapshot, "train", limit=7)
    assert len(index) == 7
    assert index.image_id(6) == "train/006.png"


def test_where_chooses_by_meta(tmp_path):
    rows = [row(f"{n}.png", "train", *scene(n), meta=[{"key": "site", "value": "ab"[n % 2]}]) for n in range(6)]
    snapshot = publish_rows(open_store(str(tmp_path)), [("train", rows)])
    index = index_split(snapshot, "train", where={"site": "b"}, limit=2)
    assert [index.image_id(place) for place in range(len(index))] == ["1.png", "3.png"]
    assert len(index_split(snapshot, "train", where={"site": ["a", "b"], "split": "train"})) == 6
    with pytest.raises(InputError, match="no image in split 'train' with"):
        index_split(snapshot, "train", where={"site": "c"})


def test_a_sample_is_the_stored_image_and_mask(snapshot):
    for cache_bytes in (0, 1 << 24):
        data = samples(snapshot, cache_bytes=cache_bytes)
        for _ in range(2):
            image, mask = data.load(7)
            np.testing.assert_array_equal(image, scene(7)[0])
            np.testing.assert_array_equal(mask, scene(7)[1])
        np.testing.assert_array_equal(data.load_mask(7), scene(7)[1])


def test_masks_arrive_in_the_models_classes(snapshot):
    model = DatasetSpec(name="m", classes=(ClassSpec(name="thing", color=(1, 1, 1)), CLASSES[0]), ignore_index=7)
    data = samples(snapshot, spec=model, class_map={"disc": "thing", "box": "thing"})
    expected = np.array([1, 0, 0] + [7] * 253, np.uint8)[scene(3)[1]]
    np.testing.assert_array_equal(data.load(3)[1], expected)


def test_decoded_images_are_kept_up_to_the_budget_and_shards_are_read_once(snapshot, monkeypatch):
    reads = []
    original = type(snapshot).read
    monkeypatch.setattr(type(snapshot), "read", lambda self, record, *a, **k: reads.append(record.path) or original(self, record, *a, **k))
    one_image = 24 * 32 * 4
    data = samples(snapshot, cache_bytes=5 * one_image, held_bytes=1)
    reads.clear()
    for _ in range(2):
        for index in range(12):
            data.load(index)
    # the first five, all of shard one, were kept; shards two and three are read again
    assert len(reads) == 3 + 2
    assert len(set(reads)) == 3


def test_threads_that_want_the_same_shard_read_it_once(snapshot, monkeypatch):
    reads = []
    data = samples(snapshot)
    original = type(snapshot).read
    monkeypatch.setattr(type(snapshot), "read", lambda self, record, *a, **k: reads.append(record.path) or original(self, record, *a, **k))
    start = threading.Barrier(8)
    threads = [threading.Thread(target=lambda place=place: (start.wait(), data.load(place % 5))) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_batches_come_in_the_planned_order_with_their_augmentation(snapshot):
    data = samples(snapshot)
    plan = [((0, 0), [3, 1, 2]), ((0, 1), [0]), ((1, 0), [3, 11])]
    config = AugmentConfig()
    prepare = augmenter(config, seed=9, mean=(0.5, 0.5, 0.5), ignore_index=255)
    with Loader(data, plan, prepare, threads=3, prefetch=2) as loader:
        batches = list(loader)
    assert [batch.tag for batch in batches] == [(0, 0), (0, 1), (1, 0)]
    assert batches[0].ids == ["train/003.png", "train/001.png", "train/002.png"]
    for batch, place, number, epoch in ((batches[0], 0, 3, 0), (batches[2], 0, 3, 1)):
        key = (9, epoch, f"train/{number:03d}.png")
        image, mask = augment(*scene(number), config, key=key, fill=(128, 128, 128), ignore_index=255)
        np.testing.assert_array_equal(batch.images_NHWC[place], image)
        np.testing.assert_array_equal(batch.masks_NHW[place], mask)


def test_no_more_than_the_stated_batches_are_made_ahead(snapshot):
    planned = []

    def plan():
        for number in range(12):
            planned.append(number)
            yield (0, number), [number]

    with Loader(samples(snapshot), plan(), None, threads=1, prefetch=3) as loader:
        batches = iter(loader)
        next(batches)
        assert len(planned) == 3
        next(batches)
        assert len(planned) == 4


def test_an_exception_in_a_thread_reaches_the_consumer(tmp_path):
    rows = [row("good.png", "train", *scene(0)), row("bare.png", "train", scene(1)[0], None)]
    data = samples(publish_rows(open_store(str(tmp_path)), [("train", rows)]))
    with Loader(data, [((0, 0), [0]), ((0, 1), [1])], None, threads=2, prefetch=2) as loader:
        batches = iter(loader)
        assert next(batches).ids == ["good.png"]
        with pytest.raises(InputError, match=r"'bare.png' .* has no mask"):
            next(batches)


def test_damage_is_named_and_is_no_quarantine(tmp_path):
    image, mask = scene(0)
    broken = {**row("a.png", "train", image, mask), "image": {"bytes": b"\x89PNG\r\n\x1a\nxx", "path": None}}
    odd = row("b.png", "train", image, mask[:-1])
    by_reference = {**row("c.png", "train", image, mask), "image": {"bytes": None, "path": "s3://b/c.png"}}
    data = samples(publish_rows(open_store(str(tmp_path)), [("train", [broken, odd, by_reference])]))
    with pytest.raises(CorruptError, match=r"'a.png' .* does not decode any more"):
        data.load(0)
    with pytest.raises(CorruptError, match=r"'b.png' .* image is 32x24 and its mask 32x23"):
        data.load(1)
    with pytest.raises(InputError, match="by reference"):
        data.load(2)


def test_images_of_two_sizes_do_not_share_a_batch(tmp_path):
    rows = [row(f"{n}.png", "val", *scene(n, width=32 if n < 3 else 40)) for n in range(5)]
    snapshot = publish_rows(open_store(str(tmp_path)), [("val", rows)])
    data = samples(snapshot, "val")
    assert [indices for _, indices in same_size_batches(data.index, 0, 5, 2)] == [[0, 1], [2], [3, 4]]
    with Loader(data, [((0, 0), [2, 3])], None, threads=1, prefetch=1) as loader, pytest.raises(InputError, match="32x24, 40x24"):
        list(loader)


def test_class_pixels_are_those_of_all_masks_and_leave_out_the_ignored(snapshot):
    data = samples(snapshot)
    expected = sum(np.bincount(scene(number)[1].reshape(-1), minlength=256)[:3] for number in range(12))
    np.testing.assert_array_equal(count_class_pixels(data, threads=2), expected)


def test_of_many_images_evenly_spaced_ones_are_counted(snapshot, monkeypatch):
    monkeypatch.setattr("segtasks.training.statistics.most_images", 3)
    expected = sum(np.bincount(scene(number)[1].reshape(-1), minlength=256)[:3] for number in (0, 4, 8))
    np.testing.assert_array_equal(count_class_pixels(samples(snapshot)), expected)
