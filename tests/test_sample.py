from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from segtasks import sample
from segtasks.codecs import rle
from segtasks.codecs.image import decode_image
from segtasks.errors import InputError, MissingExtra
from segtasks.readers import folder
from segtasks.sample import CLASSES, make_scenes, write_sample
from segtasks.spec import DecodePolicy
from segtasks.storage import open_store

SIZE = (64, 80)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert write_sample(str(tmp_path / name), seed=seed, train=3, val=2, size=SIZE) == 5
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[path] != other[path] for path in first)
    assert len(first) == 5 * 3 + 1


def test_a_scene_does_not_depend_on_how_many_are_made() -> None:
    few = list(make_scenes("val", 2, size=SIZE))
    many = list(make_scenes("val", 4, size=SIZE))
    for one, same in zip(few, many):
        np.testing.assert_array_equal(one.image, same.image)
        np.testing.assert_array_equal(one.mask, same.mask)


def test_the_folder_reader_reads_it_with_classes_and_instances(tmp_path: Path) -> None:
    write_sample(str(tmp_path), train=3, val=2, size=SIZE)
    reader = folder.build(folder.Config(), open_store(str(tmp_path)))
    assert reader.spec().names == list(CLASSES)
    items = list(reader.scan())
    assert [item.image_id for item in items] == [f"images/train/{n:04d}.jpg" for n in range(3)] + [
        f"images/val/{n:04d}.jpg" for n in range(2)
    ]
    for item, scene in zip(items, [*make_scenes("train", 3, size=SIZE), *make_scenes("val", 2, size=SIZE)]):
        read = reader.read(item)
        assert read.mask is not None
        assert read.instances
        np.testing.assert_array_equal(read.mask, scene.mask)
        pixels = decode_image(read.image, DecodePolicy()).pixels
        assert pixels.shape == scene.image.shape == (*SIZE, 3)
        assert np.abs(pixels.astype(int) - scene.image).mean() < 6
        drawn = np.zeros(SIZE, np.uint8)
        for instance in read.instances:
            inside = rle.decode(instance.counts, *SIZE)
            assert (scene.mask[inside] == instance.category_id).all()
            drawn[inside] = instance.category_id
        np.testing.assert_array_equal(drawn, scene.mask)


def test_every_digit_is_in_both_splits_and_most_is_background() -> None:
    for split, count in (("train", 24), ("val", 24)):
        pixels = sum(np.bincount(scene.mask.ravel(), minlength=11) for scene in make_scenes(split, count, size=SIZE))
        assert (pixels > 0).all()
        assert 0.6 < pixels[0] / pixels.sum() < 0.95


def test_digits_and_photographs_of_validation_are_not_trained_on() -> None:
    assert not set(sample._PHOTOGRAPHS["train"]) & set(sample._PHOTOGRAPHS["val"])
    train, val = (sample._digits(split)[0] for split in ("train", "val"))
    assert len(train) + len(val) == len(load_digits().images)
    rows = {digit.tobytes() for digit in train}
    assert sum(digit.tobytes() in rows for digit in val) == 0


def test_a_second_call_writes_nothing_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    write_sample(str(tmp_path), train=2, val=1, size=SIZE)
    whole = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_sample(str(tmp_path), train=2, val=1, size=SIZE)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    for path in ("dataset.yaml", "images/val/0000.jpg"):
        (tmp_path / path).unlink()
    write_sample(open_store(str(tmp_path)), train=2, val=1, size=SIZE)
    assert contents(tmp_path) == whole


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    write_sample(str(tmp_path), train=1, val=1, size=SIZE)
    with pytest.raises(InputError, match="holds another data set"):
        write_sample(str(tmp_path), train=2, val=1, size=SIZE)
    (tmp_path / "dataset.yaml").unlink()
    with pytest.raises(InputError, match=r"masks/train/0000.png is there already with other contents"):
        write_sample(str(tmp_path), seed=5, train=1, val=1, size=SIZE)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'segtasks\[demo\]'"):
        write_sample(str(tmp_path), train=1, val=1, size=SIZE)
