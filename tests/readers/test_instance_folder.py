from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs import rle
from segtasks.errors import InputError, LabelError
from segtasks.readers.instance_folder import Config, InstanceFolderReader, build
from segtasks.spec import DatasetSpec
from segtasks.storage import open_store


def put(root: Path, path: str, array: np.ndarray) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(root / path)


def photo(root: Path, *paths: str, height: int = 6, width: int = 8) -> None:
    for path in paths:
        put(root, path, np.full((height, width, 4), 90, np.uint8))


def box(top: int, left: int, bottom: int, right: int, value: int = 255) -> np.ndarray:
    mask = np.zeros((6, 8), np.uint8)
    mask[top:bottom, left:right] = value
    return mask


def reader(root: Path, spec: DatasetSpec | None = None, **options: object) -> InstanceFolderReader:
    return build(Config(**options), open_store(str(root)), spec)


def refusal(root: Path, **options: object) -> str:
    found = reader(root, **options)
    (item,) = found.scan()
    with pytest.raises(LabelError) as caught:
        found.read(item)
    return str(caught.value)


def test_each_file_is_an_object_and_overlaps_stay(tmp_path: Path) -> None:
    photo(tmp_path, "stage1_train/a/images/a.png")
    first, second = box(0, 0, 4, 4), box(2, 2, 6, 8)
    put(tmp_path, "stage1_train/a/masks/1.png", first)
    put(tmp_path, "stage1_train/a/masks/2.png", second)
    found = reader(tmp_path, class_name="nucleus")
    (item,) = found.scan()
    assert (item.image_id, item.split) == ("stage1_train/a/images/a.png", "train")
    assert item.size == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    sample = found.read(item)
    assert sample.instances is not None
    for one, mask in zip(sample.instances, (first, second), strict=True):
        np.testing.assert_array_equal(rle.decode(one.counts, 6, 8), mask > 0)
    assert [(one.category_id, one.area, one.bbox) for one in sample.instances] == [(1, 16, (0, 0, 4, 4)), (1, 24, (2, 2, 6, 4))]
    assert sample.mask is not None
    np.testing.assert_array_equal(sample.mask, (first | second) > 0)
    assert found.spec().names == ["background", "nucleus"]
    assert reader(tmp_path, semantic=False).read(item).mask is None


def test_splits_are_the_outer_folders_and_the_usual_ones_by_their_usual_names(tmp_path: Path) -> None:
    for path in ("stage1_train/a", "stage2_test_final/a", "valid/a", "site7/a", "bare"):
        photo(tmp_path, f"{path}/images/x.png")
        put(tmp_path, f"{path}/masks/1.png", box(0, 0, 1, 1))
    assert [item.split for item in reader(tmp_path).scan()] == ["", "site7", "train", "test", "val"]


def test_masks_may_lie_in_a_folder_of_the_images_name(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/x.png", "images/train/y.png", "images/val/x.png", "images/z.png")
    for path, size in (("train/x", 1), ("train/y", 2), ("val/x", 3)):
        put(tmp_path, f"masks/{path}/1.png", box(0, 0, size, 1))
    put(tmp_path, "masks/z/1.png", box(0, 0, 4, 1))
    found = reader(tmp_path)
    items = list(found.scan())
    assert [item.split for item in items] == ["train", "train", "val", ""]
    assert [[one.area for one in found.read(item).instances or ()] for item in items] == [[1], [2], [3], [4]]


def test_both_ways_may_stand_below_a_split(tmp_path: Path) -> None:
    photo(tmp_path, "train/images/x.png")  # the only one, and still not `train`'s own
    put(tmp_path, "train/masks/x/1.png", box(0, 0, 2, 2))
    (item,) = reader(tmp_path).scan()
    assert item.split == "train"
    assert [one.area for one in reader(tmp_path).read(item).instances or ()] == [4]


def test_classes_may_be_the_folders_of_the_masks(tmp_path: Path) -> None:
    photo(tmp_path, "train/a/images/a.png", "images/x.png")
    for path in ("train/a/masks/wall/1.png", "train/a/masks/cell/1.png", "masks/x/cell/1.png"):
        put(tmp_path, path, box(0, 0, 2, 2))
    found = reader(tmp_path, class_folders=True)
    assert found.spec().names == ["background", "cell", "wall"]
    by_id = {item.image_id: [one.category_id for one in found.read(item).instances or ()] for item in found.scan()}
    assert by_id == {"images/x.png": [1], "train/a/images/a.png": [1, 2]}
    put(tmp_path, "masks/x/new/2.png", box(0, 0, 2, 2))
    grown = reader(tmp_path, found.spec(), class_folders=True)
    with pytest.raises(LabelError, match=r"masks/x/new/2.png is of the class 'new'.*cell, wall"):
        grown.read(next(iter(grown.scan())))
    put(tmp_path, "masks/x/background/2.png", box(0, 0, 2, 2))
    with pytest.raises(InputError, match="cannot be of the class 'background'"):
        reader(tmp_path, class_folders=True).spec()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (box(0, 0, 0, 0), "masks/1.png is empty"),
        (np.zeros((8, 6), np.uint8) + 1, "masks/1.png is 8x6, its image 6x8"),
        (box(0, 0, 2, 2) // 2 + box(1, 1, 3, 3) // 4, r"masks/1.png has the values \[0, 63, 127, 190\]; needed: 0 and one other"),
        (box(0, 0, 6, 8) - box(0, 0, 1, 1) // 2, r"has the values \[128, 255\]"),
        (np.dstack([box(0, 0, 1, 1), box(0, 0, 2, 2), box(0, 0, 3, 3)]), "masks/1.png is in colour"),
    ],
)
def test_a_file_that_is_not_one_object_of_the_image_is_refused_by_name(tmp_path: Path, mask: np.ndarray, said: str) -> None:
    photo(tmp_path, "train/a/images/a.png")
    put(tmp_path, "train/a/masks/1.png", mask)
    with pytest.raises(LabelError, match=said):
        reader(tmp_path).read(next(iter(reader(tmp_path).scan())))


def test_masks_of_other_modes_are_taken(tmp_path: Path) -> None:
    photo(tmp_path, "train/a/images/a.png")
    mask = box(1, 1, 4, 5)
    put(tmp_path, "train/a/masks/rgba.png", np.dstack([mask, mask, mask, np.full_like(mask, 255)]))
    put(tmp_path, "train/a/masks/one.png", mask // 255)
    put(tmp_path, "train/a/masks/sixteen.tif", mask.astype(np.uint16) * 257)
    Image.fromarray(mask).convert("1").save(tmp_path / "train/a/masks/bits.png")
    put(tmp_path, "train/a/masks/whole.png", np.full((6, 8), 255, np.uint8))
    found = reader(tmp_path)
    (item,) = found.scan()
    assert [one.area for one in found.read(item).instances or ()] == [12, 12, 12, 12, 48]


def test_a_broken_mask_and_one_that_is_gone_are_refused_by_name(tmp_path: Path) -> None:
    photo(tmp_path, "train/a/images/a.png")
    (tmp_path / "train/a/masks").mkdir()
    (tmp_path / "train/a/masks/1.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert "train/a/masks/1.png: " in refusal(tmp_path)
    found = reader(tmp_path)
    (item,) = found.scan()
    (tmp_path / "train/a/masks/1.png").unlink()
    with pytest.raises(LabelError, match=r"train/a/masks/1.png is missing"):
        found.read(item)


def test_an_image_without_masks_is_refused_unless_told_and_a_split_without_any_has_no_truth(tmp_path: Path) -> None:
    photo(tmp_path, "train/a/images/a.png", "train/b/images/b.png", "test/c/images/c.png")
    put(tmp_path, "train/a/masks/1.png", box(0, 0, 1, 1))
    found = reader(tmp_path)
    test, _, bare = found.scan()
    assert (found.read(test).mask, found.read(test).instances) == (None, None)
    with pytest.raises(LabelError, match=r"train/b/images/b.png has no masks; .*without_masks: background"):
        found.read(bare)
    sample = reader(tmp_path, without_masks="background").read(bare)
    assert sample.instances == ()
    assert sample.mask is not None
    assert not sample.mask.any()


def test_the_version_is_that_of_the_image_and_all_its_masks(tmp_path: Path) -> None:
    photo(tmp_path, "train/a/images/a.png", "train/b/images/b.png")
    for path in ("a/masks/1.png", "a/masks/2.png", "b/masks/1.png"):
        put(tmp_path, f"train/{path}", box(0, 0, 1, 1))

    def versions() -> list[str]:
        return [item.version for item in reader(tmp_path).scan()]

    known = [versions()]
    put(tmp_path, "train/a/masks/2.png", box(0, 0, 6, 7))
    known.append(versions())
    (tmp_path / "train/a/masks/2.png").rename(tmp_path / "train/a/masks/3.png")
    known.append(versions())
    (tmp_path / "train/a/masks/3.png").unlink()
    known.append(versions())
    assert len({first for first, _ in known}) == 4
    assert len({second for _, second in known}) == 1


def test_layouts_that_are_another_format_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images at .*<id>/images/x.png with <id>/masks/\*.png.*found nothing"):
        list(reader(tmp_path).scan())
    photo(tmp_path, "images/x.png", "images/y.png")
    with pytest.raises(InputError, match="has 2 images and no masks/"):
        list(reader(tmp_path).scan())
    put(tmp_path, "masks/x.png", box(0, 0, 1, 1))
    with pytest.raises(InputError, match=r"no mask belongs to an image.*masks masks/x.png; images images/x.png.*the format folder"):
        list(reader(tmp_path).scan())
    (tmp_path / "masks/x.png").unlink()
    put(tmp_path, "masks/x/cell/1.png", box(0, 0, 1, 1))
    with pytest.raises(InputError, match="class_folders"):
        list(reader(tmp_path).scan())
    put(tmp_path, "images/x.jpg", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"images/x.jpg and images/x.png have the same stem"):
        list(reader(tmp_path).scan())


def test_masks_of_nobody_are_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "train/a/images/a.png")
    put(tmp_path, "train/a/masks/1.png", box(0, 0, 1, 1))
    put(tmp_path, "train/b/masks/1.png", box(0, 0, 1, 1))
    assert len(list(reader(tmp_path).scan())) == 1
    assert "1 masks belong to no image and are passed over: train/b/masks/1.png" in caplog.text
