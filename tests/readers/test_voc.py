from __future__ import annotations

import logging
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers._describe import voc_color
from segtasks.readers._voc_classes import find_spec
from segtasks.readers.voc import Config, VocReader, build
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample

PALETTE = [channel for index in range(256) for channel in voc_color(index)]


def put(folder: Path, path: str, array: np.ndarray, *, palette: bool = False) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(PALETTE)
    image.save(file)


def put_pair(folder: Path, name: str, classes: np.ndarray | None = None, objects: np.ndarray | None = None) -> None:
    put(folder, f"JPEGImages/{name}.jpg", np.zeros((2, 4, 3), np.uint8))
    for kind, array in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        if array is not None:
            put(folder, f"{kind}/{name}.png", array, palette=True)


def put_list(folder: Path, split: str, text: str) -> None:
    (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (folder / f"ImageSets/Segmentation/{split}.txt").write_text(text)


def reader(folder: Path, /, **options: object) -> VocReader:
    return build(Config.model_validate(options), open_store(str(folder)))


def read_one(folder: Path, /, **options: object) -> tuple[VocReader, np.ndarray]:
    voc = reader(folder, **options)
    mask = voc.read(next(iter(voc.scan()))).mask
    assert mask is not None
    return voc, mask


CLASSES = np.array([[0, 15, 15, 255], [0, 15, 7, 255]], np.uint8)
OBJECTS = np.array([[0, 1, 2, 255], [0, 1, 3, 255]], np.uint8)


@pytest.mark.parametrize("root", ["", "VOC2012", "VOCdevkit/VOC2007"])
def test_the_source_is_the_folder_of_a_year_or_one_above_it(tmp_path: Path, root: str) -> None:
    put_pair(tmp_path / root, "2007_1", CLASSES)
    put_list(tmp_path / root, "train", "2007_1\n")
    voc = reader(tmp_path)
    (item,) = voc.scan()
    assert item.image_id == (f"{root}/" if root else "") + "JPEGImages/2007_1.jpg"
    assert item.split == "train"
    assert voc.spec().name == (root.rpartition("/")[2] or tmp_path.name)


def test_two_years_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        put_pair(tmp_path / year, "x", CLASSES)
    with pytest.raises(InputError, match=r"JPEGImages in VOC2007, VOC2012; say which is meant by the option folder"):
        list(reader(tmp_path).scan())
    assert [item.image_id for item in reader(tmp_path, folder="VOC2007").scan()] == ["VOC2007/JPEGImages/x.jpg"]


def test_a_name_of_trainval_belongs_to_the_list_that_has_it_too(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "unlisted"):
        put_pair(tmp_path, name, CLASSES)
    put_pair(tmp_path, "d")
    put_list(tmp_path, "trainval", "a\nb\nc\n")
    put_list(tmp_path, "train", "b\n")
    put_list(tmp_path, "val", "a")
    put_list(tmp_path, "test", "\ufeffd\r\n")
    voc = reader(tmp_path)
    items = list(voc.scan())
    assert [(Path(item.image_id).stem, item.split) for item in items] == [("b", "train"), ("a", "val"), ("d", "test"), ("c", "trainval")]
    assert [sorted(item.labels) for item in items] == [["mask"], ["mask"], [], ["mask"]]
    assert voc.read(items[2]).mask is None


def test_other_lists_can_be_the_splits_and_other_masks_the_truth(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put_pair(tmp_path, name)
        put(tmp_path, f"SegmentationClassAug/{name}.png", CLASSES, palette=True)
    put_list(tmp_path, "train", "a\n")
    put_list(tmp_path, "trainaug", "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\n")
    items = list(reader(tmp_path, masks="SegmentationClassAug/", lists=["trainaug"]).scan())
    assert [(item.split, item.labels["mask"]) for item in items] == [
        ("trainaug", "SegmentationClassAug/a.png"),
        ("trainaug", "SegmentationClassAug/b.png"),
    ]
    with pytest.raises(InputError, match=r"has no minival.txt; found train, trainaug"):
        list(reader(tmp_path, lists=["minival"]).scan())


def test_without_lists_every_image_with_a_mask_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_pair(tmp_path, "a", CLASSES)
    put_pair(tmp_path, "boxes_only")
    put(tmp_path, "SegmentationClass/gone.png", CLASSES, palette=True)
    with caplog.at_level(logging.INFO):
        items = list(reader(tmp_path).scan())
    assert [(item.image_id, item.split) for item in items] == [("JPEGImages/a.jpg", "")]
    assert "1 masks have no image in JPEGImages and are passed over: gone" in caplog.text
    assert "1 of 2 images are in no list or have no mask" in caplog.text


def test_an_image_in_two_splits_is_refused_with_both_places(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", CLASSES)
    put_list(tmp_path, "train", "a\n")
    put_list(tmp_path, "val", "\na\n")
    with pytest.raises(InputError, match=r"val.txt, line 2 names a, which ImageSets/Segmentation/train.txt, line 1 named before"):
        list(reader(tmp_path).scan())


def test_indices_are_kept_and_255_is_void(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", CLASSES)
    voc, mask = read_one(tmp_path)
    np.testing.assert_array_equal(mask, CLASSES)
    spec = voc.spec()
    assert spec.ignore_index == 255
    assert spec.num_classes == 21
    assert [spec.names[index] for index in (0, 1, 15, 20)] == ["background", "aeroplane", "person", "tvmonitor"]
    assert [spec.classes[index].color for index in (0, 15, 20)] == [(0, 0, 0), (192, 128, 128), (0, 64, 128)]


def test_masks_and_objects_in_voc_colours_are_read_by_colour(tmp_path: Path) -> None:
    put_pair(tmp_path, "a")
    colors = np.array(PALETTE, np.uint8).reshape(-1, 3)
    put(tmp_path, "SegmentationClass/a.png", colors[CLASSES])
    put(tmp_path, "SegmentationObject/a.png", colors[OBJECTS])
    voc, mask = read_one(tmp_path)
    np.testing.assert_array_equal(mask, CLASSES)
    sample = voc.read(next(iter(voc.scan())))
    assert sample.instances is not None
    assert [(one.category_id, one.area, one.bbox) for one in sample.instances] == [
        (15, 2, (1, 0, 1, 2)),
        (15, 1, (2, 0, 1, 1)),
        (7, 1, (2, 1, 1, 1)),
    ]


def test_grey_colours_are_colours_and_grey_indices_are_indices(tmp_path: Path) -> None:
    put_pair(tmp_path, "a")
    car = np.array([[0, 128, 128, 0], [0, 128, 128, 0]], np.uint8)  # (128, 128, 128) is a car
    put(tmp_path, "SegmentationClass/a.png", np.stack([car] * 3, axis=2))
    np.testing.assert_array_equal(read_one(tmp_path)[1], np.where(car == 128, 7, 0))
    put(tmp_path, "SegmentationClass/a.png", np.stack([CLASSES] * 3, axis=2))
    np.testing.assert_array_equal(read_one(tmp_path)[1], CLASSES)


def test_the_void_border_is_no_object_and_background_gives_no_class(tmp_path: Path) -> None:
    classes = np.array([[0, 0, 0, 255], [0, 15, 15, 255]], np.uint8)
    objects = np.array([[0, 1, 1, 255], [1, 1, 1, 4]], np.uint8)
    put_pair(tmp_path, "a", classes, objects)
    voc = reader(tmp_path)
    sample = voc.read(next(iter(voc.scan())))
    assert sample.instances is not None
    assert [(one.category_id, one.area) for one in sample.instances] == [(15, 5.0)]  # 4 lies on void alone


def test_an_object_on_background_alone_is_left_out_and_counted(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", np.where(OBJECTS == 3, 7, 0).astype(np.uint8), OBJECTS)
    voc = reader(tmp_path)
    sample = voc.read(next(iter(voc.scan())))
    assert sample.instances is not None
    assert [(one.category_id, one.area) for one in sample.instances] == [(7, 1.0)]
    assert sample.meta == {"objects_on_background": "2"}


def test_class_names_of_labelme_are_the_classes(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", np.array([[0, 1, 2, 255], [0, 1, 2, 255]], np.uint8))
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ncat\ntv/monitor")
    voc, mask = read_one(tmp_path)
    assert voc.spec().names == ["_background_", "cat", "tv/monitor"]
    assert [one.isthing for one in voc.spec().classes] == [False, True, True]
    assert sorted(np.unique(mask).tolist()) == [0, 1, 2, 255]


def test_arrays_beside_an_older_labelmes_masks_are_passed_over(tmp_path: Path) -> None:
    put_pair(tmp_path, "a")
    (tmp_path / "SegmentationClass").mkdir()
    np.save(tmp_path / "SegmentationClass/a.npy", CLASSES)
    put(tmp_path, "SegmentationClassPNG/a.png", CLASSES, palette=True)
    np.testing.assert_array_equal(read_one(tmp_path)[1], CLASSES)


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nignored:224,224,192::\ncat:250,50,83:ear,tail:\nsemi:colon:10,20,30::\n"


def test_a_labelmap_names_classes_and_masks_are_read_by_its_colours(tmp_path: Path) -> None:
    put_pair(tmp_path, "a")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    put_list(tmp_path, "default", "a\n")
    colors = np.array([(0, 0, 0), (250, 50, 83), (10, 20, 30), (224, 224, 192)], np.uint8)
    indices = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    put(tmp_path, "SegmentationClass/a.png", colors[indices])
    voc, mask = read_one(tmp_path)
    assert next(iter(voc.scan())).split == ""  # CVAT's "default"
    assert voc.spec().names == ["background", "cat", "semi:colon"]
    np.testing.assert_array_equal(mask, np.where(indices == 3, 255, indices))
    image = Image.fromarray(3 - indices)
    image.putpalette(colors[[3, 2, 1, 0]].tobytes())  # the palette's order is not the file's
    image.save(tmp_path / "SegmentationClass/a.png")
    np.testing.assert_array_equal(read_one(tmp_path)[1], mask)
    put(tmp_path, "SegmentationClass/a.png", np.array([[0, 2, 3, 255], [0, 2, 3, 255]], np.uint8))  # grey: places in the file
    np.testing.assert_array_equal(read_one(tmp_path)[1], [[0, 1, 2, 255], [0, 1, 2, 255]])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labelmap.txt", "background:0,0,0\n", r"labelmap.txt, line 1: 'background:0,0,0' is no class; needed: label:red,green,blue"),
        ("labelmap.txt", "a:0,0,0::\nb:0,0,256::\n", r"line 2: 'b:0,0,256::' is no class"),
        ("labelmap.txt", "a:0,0,0::\nb:0,0,0::\n", r"line 2: 'b' has the colour \(0, 0, 0\) of another class"),
        ("labelmap.txt", "# nothing\n", r"labelmap.txt names no class"),
        ("class_names.txt", "a\nb\na\n", r"class_names.txt names 'a' twice"),
        ("class_names.txt", "\n".join(map(str, range(300))), r"names 300 classes; masks of 8 bits have at most 255"),
    ],
)
def test_broken_class_files_are_refused_with_their_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    put_pair(tmp_path, "a", CLASSES)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        reader(tmp_path).spec()


def test_wrong_labels_are_faults_of_their_image(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", np.full((2, 4), 21, np.uint8))
    with pytest.raises(LabelError, match=r"SegmentationClass/a.png has values that are no class: \[21\]"):
        read_one(tmp_path)
    put(tmp_path, "SegmentationClass/a.png", np.full((2, 4, 3), (1, 2, 3), np.uint8))
    with pytest.raises(LabelError, match=r"colours that are no class: \[\(1, 2, 3\)\]"):
        read_one(tmp_path)
    put_pair(tmp_path, "a", CLASSES, np.ones((3, 3), np.uint8))
    with pytest.raises(LabelError, match=r"SegmentationObject/a.png is 3x3, its mask 2x4"):
        read_one(tmp_path)


def test_a_listed_image_that_is_not_there_stays_missing_and_its_neighbours_are_read(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", CLASSES)
    put_pair(tmp_path, "b")
    put_list(tmp_path, "train", "gone\na\nb\n")
    voc = reader(tmp_path)
    gone, there, without = voc.scan()
    assert (gone.image_id, gone.version) == ("JPEGImages/gone.jpg", "missing+missing")
    with pytest.raises(FileNotFoundError):
        voc.read(gone)
    assert voc.read(there).mask is not None
    with pytest.raises(LabelError, match=r"SegmentationClass/b.png is missing"):
        voc.read(without)


def test_the_version_changes_with_the_image_its_mask_and_its_objects_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put_pair(tmp_path, name, CLASSES, OBJECTS)
    before = [item.version for item in reader(tmp_path).scan()]
    for kind in ("JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationObject/a.png"):
        (tmp_path / kind).write_bytes((tmp_path / kind).read_bytes() + b"0")
        after = [item.version for item in reader(tmp_path).scan()]
        assert [old == new for old, new in zip(before, after)] == [False, True]
        before = after


def test_other_layouts_are_refused_saying_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no VOC data at .*: looked for JPEGImages/ here and below.*; found nothing"):
        list(reader(tmp_path).scan())
    put_pair(tmp_path, "a")
    with pytest.raises(InputError, match=r"has 1 images in JPEGImages and no masks; needed: SegmentationClass/x.png"):
        list(reader(tmp_path).scan())
    put_list(tmp_path, "train", "elsewhere\n")
    with pytest.raises(InputError, match=r"none of the 1 names in ImageSets/Segmentation is an image of JPEGImages: names elsewhere"):
        list(reader(tmp_path).scan())
    (tmp_path / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"train.txt is no text in UTF-8"):
        list(reader(tmp_path).scan())
    put_list(tmp_path, "train", "a\n")
    with pytest.raises(InputError, match=r"there are no masks \(PNG\) in .*/Masks: the option masks"):
        list(reader(tmp_path, masks="Masks").scan())


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200) | st.lists(st.from_regex(r"\A[a-c_]{0,3}:?[0-9,:]{0,12}:{0,3}\Z"), max_size=6).map("\n".join))
def test_any_class_file_is_read_or_refused(text: str) -> None:
    store = open_store("memory://voc-class-files")
    for file in ("labelmap.txt", "class_names.txt"):
        store.replace(file, text.encode("utf-8", "surrogatepass"))
        with suppress(InputError):
            assert find_spec(store, "", "any").classes
        store.delete(file)


words = st.sampled_from(["a", "a.jpg", "/JPEGImages/a.jpg", "/SegmentationClass/a.png", "..", "/", "a.jpg/b", '"a"', "x\0", "b" * 300])
lines = st.lists(st.lists(words | st.text(max_size=3), max_size=3).map(" ".join))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(data=lines.map(lambda found: "\n".join(found).encode()) | st.binary(max_size=30))
def test_any_list_is_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        put_pair(Path(folder), "a", CLASSES, OBJECTS)
        put_list(Path(folder), "train", "")
        (Path(folder) / "ImageSets/Segmentation/train.txt").write_bytes(data)
        voc = reader(Path(folder))
        with suppress(InputError):
            for item in voc.scan():
                with suppress(DataFault, FileNotFoundError):
                    check_sample(voc.read(item), voc.spec(), item.image_id)
