from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from skimage.draw import polygon as inside_of

from segtasks.codecs import rle
from segtasks.errors import InputError, LabelError
from segtasks.readers._cityscapes_labels import LABELS
from segtasks.readers._cityscapes_polygons import draw_ids
from segtasks.readers.cityscapes import CityscapesReader, Config, build
from segtasks.storage import open_store

NAME = "train/aachen/aachen_000000_000019"
IDS = np.array([[0, 7, 26, 26, 18], [24000, 26000, 26001, 33, 29000]], np.uint16)
RAW = np.where(IDS < 1000, IDS, IDS // 1000).astype(np.uint8)
TRAIN = np.array([[255, 0, 13, 13, 255], [11, 13, 13, 18, 255]])


def put(folder: Path, path: str, array: np.ndarray) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def put_photo(folder: Path, name: str = NAME, height: int = 2, width: int = 5) -> None:
    put(folder, f"leftImg8bit/{name}_leftImg8bit.png", np.zeros((height, width, 3), np.uint8))


def put_labels(folder: Path, name: str = NAME, ending: str = "gtFine", **arrays: np.ndarray) -> None:
    for kind, array in arrays.items():
        put(folder, f"{ending}/{name}_{ending}_{kind}.png", array)


def put_polygons(folder: Path, objects: Any, height: Any = 40, width: Any = 60) -> None:
    put_photo(folder, NAME, 40, 60)
    path = folder / f"gtFine/{NAME}_gtFine_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": objects}))


def reader(folder: Path, **options: Any) -> CityscapesReader:
    return build(Config(**options), open_store(str(folder)))


def test_raw_ids_become_the_nineteen_train_classes_and_others_are_ignored(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelIds=RAW)
    cityscapes = reader(tmp_path)
    (item,) = cityscapes.scan()
    assert (item.split, item.group_id) == ("train", "aachen_000000")
    sample = cityscapes.read(item)
    np.testing.assert_array_equal(sample.mask, TRAIN)  # type: ignore[arg-type]
    assert sample.instances is None
    assert sample.meta == {"city": "aachen", "sequence": "000000", "frame": "000019"}
    spec = cityscapes.spec()
    assert spec.num_classes == 19
    assert spec.ignore_index == 255
    car = spec.classes[13]
    assert (car.name, car.color, car.source_id, car.isthing, car.supercategory) == ("car", (0, 0, 142), 26, True, "vehicle")
    assert [one.isthing for one in spec.classes] == [False] * 11 + [True] * 8


def test_all_keeps_the_raw_ids(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelIds=RAW, instanceIds=IDS)
    cityscapes = reader(tmp_path, classes="all")
    sample = cityscapes.read(next(iter(cityscapes.scan())))
    np.testing.assert_array_equal(sample.mask, RAW)  # type: ignore[arg-type]
    assert cityscapes.spec().num_classes == 34
    assert cityscapes.spec().names[18] == "polegroup"
    assert sample.instances is not None
    assert [one.category_id for one in sample.instances] == [26, 33, 24, 26, 26, 29]


def test_ids_with_a_number_are_objects_and_those_without_are_crowds(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelIds=RAW, instanceIds=IDS)
    cityscapes = reader(tmp_path)
    instances = cityscapes.read(next(iter(cityscapes.scan()))).instances
    assert instances is not None
    found = [(one.category_id, one.iscrowd, one.area, one.bbox) for one in instances]
    assert found == [  # in order of id: a group of cars, one of bicycles, a person, two cars; a caravan is ignored, a polegroup no object
        (13, True, 2, (2, 0, 2, 1)),
        (18, True, 1, (3, 1, 1, 1)),
        (11, False, 1, (0, 1, 1, 1)),
        (13, False, 1, (1, 1, 1, 1)),
        (13, False, 1, (2, 1, 1, 1)),
    ]
    np.testing.assert_array_equal(rle.decode(instances[0].counts, 2, 5), IDS == 26)


@pytest.mark.parametrize("kind", ["labelTrainIds", "instanceIds"])
def test_either_kind_of_label_is_enough_for_the_mask(tmp_path: Path, kind: str) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, **{kind: TRAIN.astype(np.uint8) if kind == "labelTrainIds" else IDS})
    cityscapes = reader(tmp_path)
    (item,) = cityscapes.scan()
    sample = cityscapes.read(item)
    np.testing.assert_array_equal(sample.mask, TRAIN)  # type: ignore[arg-type]
    assert (sample.instances is None) == (kind == "labelTrainIds")
    assert len(set(item.version.split("+"))) == 2  # a file that is used twice counts once


def test_train_ids_have_no_way_back_to_raw_ids(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelTrainIds=RAW)
    with pytest.raises(InputError, match=r"gtFine has only labelTrainIds files; needed for classes: all: labelIds or instanceIds"):
        list(reader(tmp_path, classes="all").scan())


def test_coarse_labels_and_other_photos_of_a_scene_are_taken(tmp_path: Path) -> None:
    name = "train_extra/ulm/ulm_000003_000019"
    put_labels(tmp_path, name, "gtCoarse", labelIds=RAW)
    for beta in ("0.01", "0.02"):
        put(tmp_path, f"leftImg8bit_foggy/{name}_leftImg8bit_foggy_beta_{beta}.png", np.zeros((2, 5, 3), np.uint8))
    cityscapes = reader(tmp_path, annotations="gtCoarse/", images="/leftImg8bit_foggy/")
    items = list(cityscapes.scan())
    assert [(item.split, item.labels["mask"]) for item in items] == [("train_extra", f"gtCoarse/{name}_gtCoarse_labelIds.png")] * 2
    np.testing.assert_array_equal(cityscapes.read(items[1]).mask, TRAIN)  # type: ignore[arg-type]
    assert cityscapes.read(items[1]).meta["sequence"] == "000003"


def test_a_split_without_labels_and_the_dummies_of_test_have_no_truth(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelIds=RAW)
    for name, value in (("test/bonn/bonn_000000_000019", 3), ("demoVideo/stuttgart/stuttgart_000000_000019", None)):
        put_photo(tmp_path, name)
        if value is not None:
            put_labels(tmp_path, name, labelIds=np.full((2, 5), value, np.uint8), instanceIds=np.full((2, 5), value, np.uint16))
    cityscapes = reader(tmp_path)
    samples = {item.split: cityscapes.read(item) for item in cityscapes.scan()}
    assert {split: sample.mask is not None for split, sample in samples.items()} == {"demoVideo": False, "test": False, "train": True}
    assert samples["test"].instances is None


def test_a_photo_without_its_label_is_refused_and_a_label_without_photo_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_photo(tmp_path)
    put_photo(tmp_path, "train/aachen/aachen_000001_000019")
    put_labels(tmp_path, labelIds=RAW)
    put_labels(tmp_path, "val/ulm/ulm_000000_000019", labelIds=RAW)
    cityscapes = reader(tmp_path)
    good, bad = cityscapes.scan()
    assert "1 labels have no photo and are passed over: val/ulm/ulm_000000_000019" in caplog.text
    assert cityscapes.read(good).mask is not None
    assert bad.version.endswith("+missing")
    with pytest.raises(LabelError, match=r"aachen_000001_000019_gtFine_labelIds.png is missing"):
        cityscapes.read(bad)


def test_values_that_are_no_class_are_faults_of_their_image(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelIds=np.full((2, 5), 34, np.uint8), instanceIds=IDS)
    cityscapes = reader(tmp_path)
    (item,) = cityscapes.scan()
    with pytest.raises(LabelError, match=r"labelIds.png has values that are no class: \[34\]"):
        cityscapes.read(item)
    put_labels(tmp_path, labelIds=RAW, instanceIds=np.full((2, 5), 34001, np.uint16))
    with pytest.raises(LabelError, match=r"instanceIds.png has ids that are no object: \[34001\]; needed: 0 to 33"):
        cityscapes.read(item)
    put_labels(tmp_path, instanceIds=IDS[:, :4])
    with pytest.raises(LabelError, match=r"instanceIds.png is \(2, 4\) and .*labelIds.png \(2, 5\)"):
        cityscapes.read(item)


def test_polygons_are_drawn_in_order_and_groups_and_deleted_ones_are_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = ["road", "car", "car", "cargroup", "person", "polegroup", "license plate", "bicycle"] * 3
    polygons = [(rng.uniform(-5, [65, 45], (int(rng.integers(3, 9)), 2))).round(2).tolist() for _ in labels]
    objects = [{"label": label, "polygon": corners} for label, corners in zip(labels, polygons)]
    objects.insert(3, {"label": "bus", "deleted": 1, "polygon": polygons[0]})
    put_polygons(tmp_path, objects)
    canvas = Image.new("I", (60, 40), 0)  # cityscapesScripts' json2instanceImg, written again
    ids = {one.name: one.id for one in LABELS}
    seen = dict.fromkeys(labels, 0)
    for label, corners in zip(labels, polygons):
        value = {"cargroup": 26, "polegroup": 18, "road": 7}.get(label, -1)
        if label in ("car", "person", "bicycle"):
            value = ids[label] * 1000 + seen[label]
            seen[label] += 1
        if value >= 0:
            ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=value)
    expected = np.array(canvas)
    cityscapes = reader(tmp_path, classes="all")
    sample = cityscapes.read(next(iter(cityscapes.scan())))
    np.testing.assert_array_equal(sample.mask, np.where(expected < 1000, expected, expected // 1000))  # type: ignore[arg-type]
    assert sample.instances is not None
    things = [value for value in np.unique(expected).tolist() if value >= 1000 or value == 26]
    assert [one.category_id for one in sample.instances] == [value if value < 1000 else value // 1000 for value in things]
    for one, value in zip(sample.instances, things, strict=True):
        np.testing.assert_array_equal(rle.decode(one.counts, 40, 60), expected == value)
    assert [one.iscrowd for one in sample.instances] == [value < 1000 for value in things]


def test_a_polygon_covers_its_inside_and_at_most_a_pixel_around_it(tmp_path: Path) -> None:
    corners = [[10, 5], [51, 9], [40, 33], [12, 30]]
    put_polygons(tmp_path, [{"label": "sky", "polygon": corners}])
    cityscapes = reader(tmp_path)
    drawn = cityscapes.read(next(iter(cityscapes.scan()))).mask == 10
    inside = np.zeros((40, 60), bool)
    inside[inside_of([y for _, y in corners], [x for x, _ in corners], (40, 60))] = True
    around = np.lib.stride_tricks.sliding_window_view(np.pad(inside, 1), (3, 3)).any(axis=(2, 3))
    assert (drawn | ~inside).all()
    assert (around | ~drawn).all()


@pytest.mark.parametrize(
    ("objects", "height", "message"),
    [
        ([{"label": "cat", "polygon": [[0, 0], [1, 1], [2, 0]]}], 40, r"object 0 has the label 'cat', which is none of Cityscapes"),
        ([{"label": "car", "polygon": [[0, 0]]}], 40, r"object 0 has the polygon \[\[0, 0\]\]; needed: pairs x, y"),
        ([{"label": "car", "polygon": [[0, 0], [1, "x"], [2, 0]]}], 40, r"object 0 has the polygon"),
        ([{"label": "car", "polygon": [[0, 0], [1, float("nan")], [2, 0]]}], 40, r"object 0 has the polygon"),
        ([{"label": "car", "polygon": [[0, 0], [1, 1e300], [2, 0]]}], 40, r"object 0 has the polygon"),
        ([{"label": ["car"], "polygon": [[0, 0], [1, 1], [2, 0]]}], 40, r"object 0 has the label"),
        (["car"], 40, r"object 0 is car; needed: a label and a polygon"),
        ({}, 40, r"needed: two whole numbers"),
        ([], 1 << 40, r"needed: two whole numbers, up to \d+ pixels"),
        ([], -40, r"needed: two whole numbers"),
        ([], True, r"needed: two whole numbers"),
        ([{"label": "car", "polygon": [[0, 0], [1, 1]]}] * 1001, 40, r"object 1000 is one car more than 1000"),
    ],
)
def test_broken_polygons_are_faults_of_their_image(tmp_path: Path, objects: Any, height: Any, message: str) -> None:
    put_polygons(tmp_path, objects, height)
    cityscapes = reader(tmp_path)
    with pytest.raises(LabelError, match=message):
        cityscapes.read(next(iter(cityscapes.scan())))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"imgHeight": 2}', "[" * 100_000, "\ud800"])
def test_what_is_no_annotation_is_a_fault_of_its_image(tmp_path: Path, text: str) -> None:
    put_polygons(tmp_path, [])
    (tmp_path / f"gtFine/{NAME}_gtFine_polygons.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    cityscapes = reader(tmp_path)
    with pytest.raises(LabelError, match=r"polygons.json is not a Cityscapes annotation"):
        cityscapes.read(next(iter(cityscapes.scan())))


def test_the_version_changes_with_the_files_that_are_read_alone(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelIds=RAW, instanceIds=IDS, color=np.zeros((2, 5, 3), np.uint8))
    before = next(iter(reader(tmp_path).scan())).version
    (tmp_path / f"gtFine/{NAME}_gtFine_color.png").write_bytes(b"another")
    assert next(iter(reader(tmp_path).scan())).version == before
    put_labels(tmp_path, instanceIds=np.zeros((9, 9), np.uint16))
    assert next(iter(reader(tmp_path).scan())).version != before


def test_other_layouts_are_refused_saying_what_was_looked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"looked for leftImg8bit/<split>/<city>/x_leftImg8bit.png; found nothing"):
        list(reader(tmp_path).scan())
    put_photo(tmp_path / "cityscapes")
    with pytest.raises(InputError, match=r"it has cityscapes/leftImg8bit: make .*/cityscapes the source"):
        list(reader(tmp_path).scan())
    source = tmp_path / "cityscapes"
    with caplog.at_level(logging.WARNING):
        assert [dict(item.labels) for item in reader(source).scan()] == [{}]
    assert "no labels in" in caplog.text
    put_labels(source, color=np.zeros((2, 5, 3), np.uint8))
    with pytest.raises(InputError, match=r"gtFine has only color files; needed for classes: train: labelIds or labelTrainIds"):
        list(reader(source).scan())
    put_labels(source, "val/ulm/ulm_000000_000019", labelIds=RAW)
    with pytest.raises(InputError, match=r"no label at .* belongs to a photo: labels of val/ulm/ulm_000000_000019; photos train/aachen"):
        list(reader(source).scan())


def test_the_layout_with_classes_of_its_own_is_refused(tmp_path: Path) -> None:
    put_photo(tmp_path)
    put_labels(tmp_path, labelIds=RAW)
    (tmp_path / "label_colors.txt").write_text("# R G B name\n0 0 0 unlabeled\n128 64 128 road\n0 0 142 licenseplate\n")
    assert reader(tmp_path).spec().num_classes == 19
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n128 64 128 cat\n")
    with pytest.raises(InputError, match=r"label_colors.txt names classes that are not those of Cityscapes: background, cat"):
        reader(tmp_path).spec()


_any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda one: st.lists(one, max_size=4), max_leaves=12
)
_points = st.lists(st.lists(st.integers(-50, 50) | st.floats() | _any, max_size=3), max_size=5)
_objects = st.lists(
    st.fixed_dictionaries(
        {}, optional={"label": st.sampled_from(["car", "cargroup", "road"]) | _any, "polygon": _points | _any, "deleted": _any}
    )
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    content=_any
    | st.fixed_dictionaries({"imgHeight": st.integers(-1, 40) | _any, "imgWidth": st.integers(-1, 40) | _any, "objects": _objects | _any})
)
def test_any_annotation_is_drawn_or_refused(content: Any) -> None:
    try:
        ids = draw_ids(json.dumps(content).encode(), "x.json", 1 << 20)
    except LabelError:
        return
    assert ids.shape == (content["imgHeight"], content["imgWidth"])
    assert set(np.unique(ids).tolist()) <= {0, 7, 26, *range(26000, 27000)}
