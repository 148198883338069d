from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from yaml import safe_dump

from segtasks.errors import ConfigError, DataFault, InputError, LabelError
from segtasks.readers.folder import Config, FolderReader, build
from segtasks.spec import DatasetSpec
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def put(folder: Path, path: str, array: np.ndarray | list[list[int]], palette: list[int] | None = None) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8) if isinstance(array, list) else array)
    if palette:
        image.putpalette(palette)
    image.save(file)


def photo(folder: Path, *paths: str) -> None:
    for path in paths:
        put(folder, path, np.full((2, 4, 3), 90, np.uint8))


def reader(folder: Path, **options: object) -> FolderReader:
    return build(Config(**options), open_store(str(folder)))


def only_mask(folder: Path, **options: object) -> np.ndarray:
    found = reader(folder, **options)
    (item,) = found.scan()
    mask = found.read(item).mask
    assert mask is not None
    return mask


def test_images_and_masks_of_one_stem_belong_together_in_each_split(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/a.jpg", "images/train/b.PNG", "images/val/day/a.jpeg")
    put(tmp_path, "masks/train/a.png", [[0, 1, 2, 255]] * 2)
    put(tmp_path, "masks/train/b.tif", [[1, 1, 1, 1]] * 2)
    put(tmp_path, "masks/val/day/a.png", [[2, 2, 2, 2]] * 2)
    found = reader(tmp_path)
    items = list(found.scan())
    assert [(item.image_id, item.split, dict(item.labels)) for item in items] == [
        ("images/train/a.jpg", "train", {"mask": "masks/train/a.png"}),
        ("images/train/b.PNG", "train", {"mask": "masks/train/b.tif"}),
        ("images/val/day/a.jpeg", "val", {"mask": "masks/val/day/a.png"}),
    ]
    assert items[0].size == sum((tmp_path / path).stat().st_size for path in ("images/train/a.jpg", "masks/train/a.png"))
    sample = found.read(items[0])
    assert sample.image == (tmp_path / "images/train/a.jpg").read_bytes()
    assert sample.mask is not None
    assert sample.mask.tolist() == [[0, 1, 2, 255]] * 2
    assert sample.instances is None
    assert found.spec().names == ["class_0", "class_1", "class_2"]
    assert found.spec().ignore_index == 255
    assert found.spec().name == tmp_path.name


def test_splits_are_optional(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 1, 0, 1]] * 2)
    (item,) = reader(tmp_path).scan()
    assert (item.image_id, item.split, dict(item.labels)) == ("images/a.jpg", "", {"mask": "masks/a.png"})


def test_images_alone_have_no_truth_and_no_classes(tmp_path: Path) -> None:
    photo(tmp_path / "under", "images/train/a.jpg", "images/train/a.png")
    photo(tmp_path / "bare", "a.jpg", "2024/b.jpg")
    for folder, ids, splits in (
        (tmp_path / "under", ["images/train/a.jpg", "images/train/a.png"], ["train", "train"]),
        (tmp_path / "bare", ["2024/b.jpg", "a.jpg"], ["2024", ""]),
    ):
        found = reader(folder)
        items = list(found.scan())
        assert [item.image_id for item in items] == ids
        assert [item.split for item in items] == splits
        assert all(found.read(item).mask is None for item in items)
        assert found.spec().classes == ()


def test_a_split_without_any_mask_has_no_truth_and_in_any_other_a_missing_one_is_refused(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/a.jpg", "images/train/b.jpg", "images/test/c.jpg")
    put(tmp_path, "masks/train/a.png", [[0, 1, 0, 1]] * 2)
    found = reader(tmp_path)
    test_c, _, train_b = list(found.scan())
    assert found.read(test_c).mask is None
    with pytest.raises(LabelError, match=r"masks/train/b.png is missing"):
        found.read(train_b)
    before = train_b.version
    put(tmp_path, "masks/train/b.png", [[0, 1, 0, 1]] * 2)
    assert list(reader(tmp_path).scan())[2].version != before


def test_zero_and_255_alone_are_background_and_foreground_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 255, 255, 0]] * 2)
    with caplog.at_level(logging.INFO, "segtasks"):
        assert only_mask(tmp_path).tolist() == [[0, 1, 1, 0]] * 2
    assert reader(tmp_path).spec().names == ["background", "foreground"]
    assert "from 1 of 1 masks with values [0, 255] concluded 2 classes (background, foreground); 255 is foreground" in caplog.text


def test_with_a_spec_nothing_is_inferred_again(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg", "images/b.jpg")
    put(tmp_path, "masks/a.png", [[0, 255, 255, 0]] * 2)
    spec = reader(tmp_path).spec()
    put(tmp_path, "masks/b.png", [[0, 1, 2, 3]] * 2)
    grown = build(Config(), open_store(str(tmp_path)), type(spec).model_validate_json(spec.model_dump_json()))
    first, second = grown.scan()
    assert grown.spec() == spec
    mask = grown.read(first).mask
    assert mask is not None
    assert mask.tolist() == [[0, 1, 1, 0]] * 2
    with pytest.raises(LabelError, match=r"masks/b.png has values that are no class: \[1, 2, 3\]; known: \[0, 255\]"):
        grown.read(second)


def test_a_bounded_number_of_masks_is_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10):
        photo(tmp_path, f"images/{number}.jpg")
        put(tmp_path, f"masks/{number}.png", [[0, number // 5, 0, 0]] * 2)
    with caplog.at_level(logging.INFO, "segtasks"):
        assert reader(tmp_path, infer_from=2).spec().num_classes == 2
    assert "from 2 of 10 masks" in caplog.text


def test_colours_of_inferred_classes_come_from_the_masks_palette(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 1, 2, 0]] * 2, [9, 8, 7, 255, 0, 0, 0, 0, 255])
    assert [item.color for item in reader(tmp_path).spec().classes] == [(9, 8, 7), (255, 0, 0), (0, 0, 255)]


def test_values_that_look_like_no_indices_ask_for_a_value_map(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 77, 128, 200]] * 2)
    with pytest.raises(InputError, match=r"values \[0, 77, 128, 200\] do not look like class indices; needed: a dataset.yaml"):
        reader(tmp_path).spec()
    (tmp_path / "dataset.yaml").write_text("classes: [sky, road]\nvalue_map: {77: sky, 128: 1}\nignore: [0, 200]\n")
    assert only_mask(tmp_path).tolist() == [[255, 0, 1, 255]] * 2


def test_dataset_yaml_names_classes_colours_and_the_ignored_value(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 1, 9, 1]] * 2)
    (tmp_path / "dataset.yaml").write_text(
        "name: holes\nclasses: [road, {name: hole, color: [1, 2, 3]}]\npalette: [[7, 7, 7]]\nignore: 9\n"
    )
    found = reader(tmp_path).spec()
    assert (found.name, found.names, found.ignore_index) == ("holes", ["road", "hole"], 255)
    assert [item.color for item in found.classes] == [(7, 7, 7), (1, 2, 3)]
    assert only_mask(tmp_path).tolist() == [[0, 1, 255, 1]] * 2


def test_unknown_values_are_named_with_the_known_ones(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 1, 2, 5]] * 2)
    (tmp_path / "dataset.yaml").write_text("classes: [road, hole]\n")
    with pytest.raises(LabelError, match=r"masks/a.png has values that are no class: \[2, 5\]; known: 0..1 and 255 \(ignored\)"):
        only_mask(tmp_path)


def test_binary_masks_with_255_can_be_declared(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 255, 255, 0]] * 2)
    (tmp_path / "dataset.yaml").write_text("classes: [membrane, cell]\nvalue_map: {0: membrane, 255: cell}\n")
    assert only_mask(tmp_path).tolist() == [[0, 1, 1, 0]] * 2
    (tmp_path / "dataset.yaml").write_text("classes: [membrane]\n")  # here 255 is ignored, as is the custom
    assert only_mask(tmp_path).tolist() == [[0, 255, 255, 0]] * 2


@pytest.mark.parametrize("palette_file", [False, True])
def test_colour_masks_are_mapped_by_the_classes_colours(tmp_path: Path, palette_file: bool) -> None:
    photo(tmp_path, "images/a.jpg")
    if palette_file:  # the indices of such a file mean nothing
        put(tmp_path, "masks/a.png", [[3, 1, 0, 1]] * 2, [*BLACK, *GREEN, 5, 5, 5, *RED])
    else:
        put(tmp_path, "masks/a.png", np.array([[RED, GREEN, BLACK, GREEN]] * 2, np.uint8))
    encoding = "encoding: color\n" if palette_file else ""
    yaml = f"classes: [{{name: x, color: {list(RED)}}}, {{name: y, color: {list(GREEN)}}}]\n{encoding}"
    (tmp_path / "dataset.yaml").write_text(yaml + "ignore: [[0, 0, 0]]\n")
    assert only_mask(tmp_path).tolist() == [[0, 1, 255, 1]] * 2
    (tmp_path / "dataset.yaml").write_text(yaml)
    with pytest.raises(LabelError, match=r"masks/a.png has colours that are no class: \[\(0, 0, 0\)\]"):
        only_mask(tmp_path)


def test_colour_masks_without_a_description_ask_for_one_with_the_colours_found(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", np.array([[RED, GREEN, GREEN, GREEN]] * 2, np.uint8))
    with pytest.raises(InputError, match=r"in colour: \[0, 255, 0\], \[255, 0, 0\]; needed: a dataset.yaml"):
        reader(tmp_path).spec()
    (tmp_path / "dataset.yaml").write_text("classes: [x, {name: y, color: [0, 255, 0]}]\n")
    with pytest.raises(InputError, match=r"gives no colour for \['x'\]"):
        reader(tmp_path).spec()


def test_grey_stored_as_colour_counts_as_grey(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", np.repeat(np.array([[0, 1, 2, 1]] * 2, np.uint8)[:, :, None], 3, axis=2))
    assert only_mask(tmp_path).tolist() == [[0, 1, 2, 1]] * 2


def test_instances_have_the_class_of_most_of_their_pixels(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/a.jpg")
    mask = np.array([[1, 1, 2, 0, 2], [1, 2, 2, 0, 2], [0, 0, 0, 255, 255]], np.uint8)
    ids = np.array([[7, 7, 300, 0, 40000], [7, 7, 300, 0, 40000], [0, 0, 0, 9, 9]], np.uint16)
    put(tmp_path, "masks/train/a.png", mask)
    put(tmp_path, "instances/train/a.png", ids)
    found = reader(tmp_path)
    (item,) = found.scan()
    instances = found.read(item).instances
    assert instances is not None
    assert [one.category_id for one in instances] == [1, 2, 2]  # 9 is ignored throughout
    for one, value in zip(instances, (7, 300, 40000)):
        rle = {"size": [3, 5], "counts": one.counts}
        np.testing.assert_array_equal(coco.decode(rle), ids == value)
        assert one.area == coco.area(rle)
        assert one.bbox == tuple(coco.toBbox(rle))
        assert not one.iscrowd


def test_instances_of_another_size_or_without_masks_are_refused(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 1, 1, 0]] * 2)
    put(tmp_path, "instances/a.png", np.zeros((3, 4), np.uint16))
    found = reader(tmp_path)
    with pytest.raises(LabelError, match=r"instances/a.png is 3x4, its mask 2x4"):
        found.read(next(iter(found.scan())))
    (tmp_path / "masks/a.png").unlink()
    with pytest.raises(InputError, match="instances/ needs masks/"):
        list(reader(tmp_path).scan())


def test_two_files_of_one_stem_are_named(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg", "images/a.png")
    put(tmp_path, "masks/a.png", [[0, 1, 1, 0]] * 2)
    with pytest.raises(InputError, match=r"images/a.jpg and images/a.png have the same stem"):
        list(reader(tmp_path).scan())
    (tmp_path / "images/a.png").unlink()
    put(tmp_path, "masks/a.tif", [[0, 1, 1, 0]] * 2)
    with pytest.raises(InputError, match=r"masks/a.png and masks/a.tif have the same stem"):
        list(reader(tmp_path).scan())


def test_a_mask_suffix_joins_stems_that_differ(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a_mask.png", [[0, 1, 1, 0]] * 2)
    with pytest.raises(InputError, match=r"no mask has the stem of an image .*masks/a_mask.png.*images/a.jpg.*mask_suffix"):
        list(reader(tmp_path).scan())
    assert only_mask(tmp_path, mask_suffix="_mask").tolist() == [[0, 1, 1, 0]] * 2
    with pytest.raises(InputError, match="no mask's stem ends in mask_suffix '_gt'"):
        list(reader(tmp_path, mask_suffix="_gt").scan())


def test_other_folder_names_can_be_given(tmp_path: Path) -> None:
    photo(tmp_path, "train/image/0.png")
    put(tmp_path, "train/label/0.png", [[0, 255, 255, 0]] * 2)
    assert only_mask(tmp_path, images="train/image", masks="train/label").tolist() == [[0, 1, 1, 0]] * 2


def test_nothing_to_read_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for images/<split>/x.jpg, images/x.jpg, .*found nothing"):
        list(reader(tmp_path).scan())
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"found notes.txt"):
        list(reader(tmp_path).scan())
    put(tmp_path, "masks/a.png", [[0, 1, 1, 0]])
    with pytest.raises(InputError, match=r"has masks/ but no images in images/"):
        list(reader(tmp_path).scan())


def test_lossy_masks_are_refused(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg", "masks/a.jpg")
    with pytest.raises(InputError, match=r"masks/ has no PNG, TIFF, BMP or GIF but masks/a.jpg; masks must be lossless"):
        list(reader(tmp_path).scan())


def test_hidden_files_are_passed_over_in_silence_and_others_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "images/a.jpg", "images/.thumb.jpg")
    (tmp_path / "images/.DS_Store").write_bytes(b"x")
    (tmp_path / "images/Thumbs.db").write_bytes(b"x")
    assert [item.image_id for item in reader(tmp_path).scan()] == ["images/a.jpg"]
    assert "1 files are passed over, as they have no image's suffix: images/Thumbs.db" in caplog.text


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("classes: [a, b", InputError, "dataset.yaml is not valid YAML"),
        ("- a\n", InputError, "dataset.yaml holds a list; needed: a mapping"),
        ("name: x\n", ConfigError, "dataset.yaml.classes: missing"),
        ("classes: [a]\nignored: 3\n", ConfigError, "unknown setting. Did you mean 'ignore'"),
        ("classes: [a, a]\n", ConfigError, r"not unique: \['a'\]"),
        ("classes: [road]\nvalue_map: {1: raod}\n", ConfigError, "Did you mean 'road'"),
        ("classes: [road]\nvalue_map: {1: 4}\n", ConfigError, "names index 4; there are 1 classes"),
        ("classes: [road]\nignore: 0\n", ConfigError, "0 is both ignored and class 'road'"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", [[0, 1, 1, 0]] * 2)
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(error, match=message):
        reader(tmp_path).spec()


def test_whole_numbers_in_float_masks_are_taken_and_others_refused(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.tif", np.array([[0, 1, 2, 1]] * 2, np.float32))
    assert only_mask(tmp_path).tolist() == [[0, 1, 2, 1]] * 2
    spec = reader(tmp_path).spec()
    put(tmp_path, "masks/a.tif", np.array([[0, 0.5, 2, np.nan]] * 2, np.float32))
    found = build(Config(), open_store(str(tmp_path)), spec)
    with pytest.raises(LabelError, match="values that are no label"):
        found.read(next(iter(found.scan())))


def test_many_classes_are_kept_in_16_bits(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", np.array([[0, 299, 65535, 255]] * 2, np.uint16))
    (tmp_path / "dataset.yaml").write_text("classes: [" + ", ".join(f"c{index}" for index in range(300)) + "]\nignore: 65535\n")
    mask = only_mask(tmp_path)
    assert mask.dtype == np.uint16
    assert mask.tolist() == [[0, 299, 65535, 255]] * 2


def test_faults_of_labels_are_data_faults(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg", "images/b.jpg")
    put(tmp_path, "masks/a.png", [[0, 1, 1, 0]] * 2)
    (tmp_path / "masks/b.png").write_bytes(b"")
    found = reader(tmp_path)
    _, item = found.scan()
    with pytest.raises(DataFault, match=r"masks/b.png: the file is empty") as caught:
        found.read(item)
    assert type(caught.value) is LabelError


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.integers(-1, 3), inner, max_size=3),
    max_leaves=6,
)
values = st.integers(-1, 4) | st.sampled_from([255, 256, 65535, 65536, 10**30])
colors = st.tuples(*[st.sampled_from([0, 255, 90]) | values] * 3).map(list)
named = st.sampled_from(["a", "b", "c", ""]) | st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b"]) | anything}, optional={"color": colors}
)
descriptions = st.fixed_dictionaries(
    {"classes": st.lists(named, max_size=4) | anything},
    optional={
        "name": st.text(st.characters(), max_size=3) | anything,
        "palette": st.lists(colors, max_size=3) | anything,
        "ignore": st.lists(values | colors, max_size=3) | values | anything,
        "value_map": st.dictionaries(values, values | st.sampled_from(["a", "b"]), max_size=4) | anything,
        "encoding": st.sampled_from(["auto", "index", "color"]) | anything,
    },
)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(
    data=(descriptions | anything).map(lambda found: safe_dump(found).encode()) | st.binary(max_size=40),
    second=st.sampled_from([np.array([[BLACK, RED, GREEN, BLACK]] * 2, np.uint8), np.array([[0, 1, 2, 999]] * 2, np.uint16)]),
)
def test_any_description_is_read_or_refused(data: bytes, second: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photo(Path(folder), "images/train/a.png", "images/train/b.png")
        put(Path(folder), "masks/train/a.png", [[0, 1, 2, 255]] * 2)
        put(Path(folder), "masks/train/b.png", second)
        (Path(folder) / "dataset.yaml").write_bytes(data)
        with contextlib.suppress(InputError, ConfigError):
            found = reader(Path(folder))
            assert DatasetSpec.model_validate_json(found.spec().model_dump_json()) == found.spec()
            for item in found.scan():
                with contextlib.suppress(DataFault):
                    check_sample(found.read(item), found.spec(), item.image_id)
