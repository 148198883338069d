import math

import numpy as np
import pytest

from segtasks.errors import InputError
from segtasks.shards import open_snapshot
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.training.data import Loader
from segtasks.training.loaded import load_checkpoint
from segtasks.training.order import EpochOrder
from segtasks.training.oversample import Repeats, repeat_factors
from segtasks.training.statistics import count_class_pixels
from tests.training.world import CLASSES, publish_rows, row, samples, scene, train

# images x classes: the first class is everywhere, the second in half of the images, the third in one of ten, the fourth in none
PRESENT = np.array([[True, number % 2 == 0, number == 4, False] for number in range(10)])


def test_repeat_factors_are_the_papers():
    # Gupta et al. 2019, section 5.2, written down image by image
    for threshold in (0.001, 0.2, 0.4, 1.0):
        share = [sum(row[c] for row in PRESENT.tolist()) / 10 for c in range(4)]
        expected = [max(max(1, math.sqrt(threshold / share[c])) for c in range(4) if row[c]) for row in PRESENT.tolist()]
        np.testing.assert_allclose(repeat_factors(PRESENT, threshold), expected, rtol=1e-12)


def test_a_worked_example():
    factors = repeat_factors(PRESENT, 0.9)
    assert factors[4] == pytest.approx(3)  # sqrt(0.9 / 0.1), more than sqrt(0.9 / 0.5)
    np.testing.assert_allclose(factors[[0, 2, 6, 8]], math.sqrt(1.8))
    assert (factors[1::2] == 1).all()
    assert repeat_factors(PRESENT, 0.9, power=0).tolist() == [1] * 10
    assert repeat_factors(PRESENT, 0.9, power=1)[4] == pytest.approx(9)
    assert repeat_factors(np.zeros((3, 2), bool), 0.5).tolist() == [1, 1, 1]
    assert repeat_factors(np.zeros((3, 0), bool), 0.5).tolist() == [1, 1, 1]


def test_an_image_comes_the_whole_of_its_factor_and_the_rest_in_that_share_of_the_epochs():
    factors = np.random.default_rng(0).uniform(1, 4, 60)
    factors[:5] = [1, 2, 3.5, 1.999999, 1]
    repeats = Repeats(factors, seed=3)
    counts = np.array([repeats.counts(epoch) for epoch in range(3000)])
    assert (counts >= np.floor(factors)).all()
    assert (counts <= np.ceil(factors)).all()
    assert (counts.sum(axis=1) == repeats.total).all()
    assert repeats.total == math.floor(factors.sum())
    np.testing.assert_allclose(counts.mean(axis=0), factors, atol=0.05)
    np.testing.assert_array_equal(Repeats(factors, seed=3).counts(7), counts[7])
    assert (Repeats(factors, seed=4).counts(7) != counts[7]).any()


def test_whole_factors_leave_nothing_to_chance():
    assert Repeats(np.array([1.0, 2.0, 3.0]), seed=0).counts(5).tolist() == [1, 2, 3]
    assert Repeats(np.array([1.0, 1.3, 1.3]), seed=0).total == 3  # the rest does not make an image


def order(shards, factors, **settings):
    given = {"seed": 1, "shuffle_bytes": 200, "batch_size": 8, **settings}
    return EpochOrder(shards, [100] * len(shards), repeats=Repeats(factors, 1) if factors is not None else None, **given)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_ranks_sees_the_same_images_as_often_as_they_should_come(world):
    shards = [13, 4, 20, 9]
    factors = np.random.default_rng(2).uniform(1, 3, sum(shards))
    plan = order(shards, factors)
    for epoch in (0, 4):
        seen = np.concatenate([plan.batch(epoch, batch, rank=rank, world=world) for batch in range(plan.batches) for rank in range(world)])
        assert len(seen) == plan.images == Repeats(factors, 1).total
        assert len(set(seen.tolist())) == len(seen)  # the second time has a number of its own
        np.testing.assert_array_equal(np.bincount(seen % 46, minlength=46), Repeats(factors, 1).counts(epoch))
        assert (seen // 46).max() == Repeats(factors, 1).counts(epoch).max() - 1


def test_repeats_stay_in_their_window_and_factors_of_one_change_nothing():
    shards = [10] * 6
    plan = order(shards, np.full(60, 2.0))
    windows = [frozenset(plan.indices(0, start, start + 40) % 60 // 10) for start in range(0, 120, 40)]
    assert all(len(window) == 2 for window in windows)
    assert frozenset.union(*windows) == frozenset(range(6))
    np.testing.assert_array_equal(order(shards, np.ones(60)).indices(3, 0, 60), order(shards, None).indices(3, 0, 60))


def labelled(number, **more):
    image, mask = scene(number)
    if number % 4:
        mask = np.where(mask == 2, 0, mask).astype(np.uint8)  # the box is rare
    return row(f"{number}.png", "train", image, mask, class_pixels=np.bincount(mask.reshape(-1), minlength=3)[:3].tolist(), **more)


@pytest.fixture
def data(tmp_path):
    url = str(tmp_path / "data")
    shards = [("train", [labelled(number) for number in numbers]) for numbers in (range(5), range(5, 12))]
    publish_rows(open_store(url), shards)
    return open_snapshot(url)


def test_recorded_class_pixels_are_those_of_the_masks_and_no_mask_is_decoded(data, monkeypatch):
    model = DatasetSpec(name="m", classes=(ClassSpec(name="thing", color=(1, 1, 1)), CLASSES[0]))
    found = samples(data, spec=model, class_map={"disc": "thing", "box": "thing"})
    masks = np.concatenate([found.load_mask(index).reshape(-1) for index in range(12)])
    expected = np.bincount(masks, minlength=256)[:2]
    monkeypatch.setattr(type(found), "load_mask", None)
    np.testing.assert_array_equal(count_class_pixels(found), expected)
    assert found.present().tolist() == [[True, True]] * 12
    assert samples(data).present()[:, 2].tolist() == [number % 4 == 0 for number in range(12)]
    assert samples(data, limit=6).present().shape == (6, 3)


def test_an_image_that_comes_again_is_augmented_in_another_way(data):
    keys = []
    with Loader(samples(data), [((2, 0), [3, 3 + 12, 3 + 24])], lambda *given: (keys.append(given[:2]), given[2:])[1], threads=1,
                prefetch=1) as loader:  # fmt: skip
        (batch,) = loader
    assert keys == [(2, "3.png"), (2, "3.png#1"), (2, "3.png#2")]
    assert batch.ids == ["3.png"] * 3


def test_training_takes_rare_classes_more_often_and_says_so(data, tmp_path):
    events = []
    settings = {"epochs": 2, "val_split": None, "oversample": {"threshold": 1.0, "power": 1}}
    result = train(data, open_store(str(tmp_path / "out")), report=events.append, **settings)
    (start,) = [event for event in events if event["event"] == "start"]
    # all have ground; 3 of 12 the box: 4 times each; the disc is in every image
    assert start["images"] == 9 + 3 * 4
    assert "oversampling: the 12 images make 21 an epoch" in result["notes"]
    assert load_checkpoint(result["checkpoint"]).info.training["config"]["oversample"] == {"threshold": 1.0, "power": 1}


def test_without_recorded_classes_oversampling_says_what_to_do(tmp_path):
    snapshot = publish_rows(open_store(str(tmp_path / "data")), [("train", [labelled(0), row("x.png", "train", *scene(1))])])
    assert count_class_pixels(samples(snapshot)).sum() > 0
    with pytest.raises(InputError, match="does not say which classes its images have"):
        train(snapshot, open_store(str(tmp_path / "out")), val_split=None, oversample={"threshold": 0.5})
