from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy
from pycocotools import mask as coco_mask

from segtasks.codecs import rle
from segtasks.errors import ConfigError, InputError, LabelError
from segtasks.readers._objects import object_classes
from segtasks.shards import open_snapshot
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import cvat
from segtasks.writers._base import Labelled, Scored
from tests.contracts.worlds import camvid as camvid_world
from tests.contracts.worlds import coco as coco_world
from tests.real import data_folder
from tests.stages.world import run_ingest
from tests.writers.roundtrip import run_export

SPEC = DatasetSpec(name="made", classes=object_classes(["cat", 'a "<dog>" & co', "müll"]))

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def instance(mask: np.ndarray, category: int = 1, **more: Any) -> Scored:
    counts = rle.encode(mask)
    return Scored(category, rle.bbox(counts, *mask.shape), float(mask.sum()), counts, **more)


def written(folder: Path, *samples: Labelled, spec: DatasetSpec = SPEC, **options: Any) -> ElementTree.Element:
    """The document of the one split that the samples are in."""
    writer = cvat.build(cvat.Config(**options), open_store(str(folder)), spec)
    split = samples[0].split
    writer.finish({split: [writer.write(sample) for sample in samples]})
    return ElementTree.parse(folder / (split or "default") / "annotations.xml").getroot()


def drawn(shape: ElementTree.Element, height: int, width: int) -> np.ndarray:
    """As CVAT does it: a mask is COCO's runs of its box turned on its side, a polygon is filled by COCO's rule."""
    mask = np.zeros((height, width), np.bool_)
    if shape.tag == "polygon":
        points = [float(place) for corner in shape.attrib["points"].split(";") for place in corner.split(",")]
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([points], height, width))).astype(bool)
    left, top, w, h = (int(shape.attrib[side]) for side in ("left", "top", "width", "height"))
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    assert sum(runs) == w * h
    box = coco_mask.decode(coco_mask.frPyObjects([{"counts": runs, "size": [w, h]}], h, w)[0]).T
    mask[top : top + h, left : left + w] = box
    return mask


def objects(image: ElementTree.Element) -> list[tuple[str, bytes]]:
    """Label and pixels of each object, polygons of one group joined."""
    height, width = int(image.attrib["height"]), int(image.attrib["width"])
    found: list[tuple[str, np.ndarray]] = []
    groups: dict[str, np.ndarray] = {}
    for shape in image:
        mask, group = drawn(shape, height, width), shape.attrib.get("group_id")
        if group is not None and group in groups:
            groups[group] |= mask
            continue
        if group is not None:
            groups[group] = mask
        found.append((shape.attrib["label"], mask))
    return sorted((label, mask.tobytes()) for label, mask in found)


def expected(data: Path) -> dict[str, list[tuple[str, bytes]]]:
    """The same of a shard set with instances, by image id."""
    snapshot = open_snapshot(str(data))
    found = {}
    for record in snapshot.shards():
        for row in snapshot.read(record, ["image_id", "instances", "width", "height"]).to_pylist():
            size = [row["height"], row["width"]]
            masks = [(one["category_id"], coco_mask.decode({"size": size, "counts": one["counts"]})) for one in row["instances"]]
            found[row["image_id"]] = sorted(
                (snapshot.spec.names[index], np.ascontiguousarray(mask).tobytes()) for index, mask in masks if mask.any()
            )
    return found


@pytest.mark.parametrize("shape", ["mask", "polygon"])
@settings(max_examples=40, deadline=None)
@given(mask=st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_every_pixel_comes_back(tmp_path_factory: pytest.TempPathFactory, shape: str, mask: np.ndarray) -> None:
    root = written(tmp_path_factory.mktemp("cvat"), Labelled("a.png", "", *mask.shape, None, (instance(mask, 3),)), shape=shape)
    (image,) = root.findall("image")
    assert objects(image) == ([("müll", mask.tobytes())] if mask.any() else [])


@pytest.mark.parametrize("shape", ["mask", "polygon"])
def test_cocos_objects_come_back_with_their_crowds(tmp_path: Path, shape: str) -> None:
    coco_world.write(open_store(str(tmp_path / "source")))
    run_ingest(tmp_path / "source", tmp_path / "data", format="coco")
    run_export(tmp_path / "data", tmp_path / "out", {"name": "cvat", "options": {"shape": shape}})
    truth = expected(tmp_path / "data")
    found = {}
    for split in ("train", "val"):
        root = ElementTree.parse(tmp_path / "out" / split / "annotations.xml").getroot()
        images = root.findall("image")
        assert root.findtext("meta/task/size") == str(len(images))
        for image in images:
            assert (tmp_path / "out" / split / "images" / image.attrib["name"]).is_file()
            found[image.attrib["name"].rpartition("__")[2]] = objects(image)
    assert found == {image_id.rpartition("/")[2]: shapes for image_id, shapes in truth.items()}
    root = ElementTree.parse(tmp_path / "out/train/annotations.xml").getroot()
    crowds = [one.find("attribute[@name='is_crowd']") is not None for one in root.findall("image[@name='2.jpg']/*")]
    assert crowds
    assert all(crowds)
    (attribute,) = json.loads((tmp_path / "out/labels.json").read_text())[0]["attributes"]
    assert (attribute["name"], attribute["input_type"]) == ("is_crowd", "checkbox")


def test_each_class_of_a_mask_is_an_object_and_ignored_pixels_are_in_none(tmp_path: Path) -> None:
    camvid_world.write(open_store(str(tmp_path / "source")))
    run_ingest(tmp_path / "source", tmp_path / "data", format="camvid")
    run_export(tmp_path / "data", tmp_path / "out", "cvat")
    (image, *_) = ElementTree.parse(tmp_path / "out/val/annotations.xml").getroot().findall("image")
    names = [label["name"] for label in json.loads((tmp_path / "out/labels.json").read_text())]
    stored = camvid_world.labels(0, 12)
    assert dict(objects(image)) == {name: (stored == index).tobytes() for index, name in enumerate(names)}
    assert {shape.attrib["z_order"] for shape in image} == {"0"}


def test_a_task_can_be_made_of_the_labels(tmp_path: Path) -> None:
    one = instance(np.ones((2, 3), np.bool_), 2, score=0.123456789)
    root = written(tmp_path, Labelled("a.png", "", 2, 3, None, (one,)))
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert [(label["name"], label["color"], label["type"]) for label in labels] == [
        ("cat", "#800000", "any"),
        ('a "<dog>" & co', "#008000", "any"),
        ("müll", "#808000", "any"),
    ]
    assert [attribute["name"] for attribute in labels[0]["attributes"]] == ["score"]
    described = root.findall("meta/task/labels/label")
    assert [(item.findtext("name"), item.findtext("color")) for item in described] == [(one["name"], one["color"]) for one in labels]
    assert [item.findtext("attributes/attribute/input_type") for item in described] == ["text"] * 3
    (shape,) = root.findall("image/mask")
    assert shape.attrib == {
        "label": 'a "<dog>" & co', "source": "auto", "occluded": "0", "z_order": "0", "rle": "0, 6",
        "left": "0", "top": "0", "width": "3", "height": "2",
    }  # fmt: skip
    assert shape.findtext("attribute[@name='score']") == "0.123457"


def test_a_smaller_object_is_above_those_that_it_overlaps_and_no_others(tmp_path: Path) -> None:
    whole, part, dot, aside = (np.zeros((6, 8), np.bool_) for _ in range(4))
    whole[:, :6], part[1:4, 1:4], dot[2, 2], aside[:, 7] = True, True, True, True
    root = written(tmp_path, Labelled("a.png", "", 6, 8, None, tuple(instance(mask) for mask in (dot, aside, whole, part))))
    assert [(int(drawn(shape, 6, 8).sum()), shape.attrib["z_order"]) for shape in root.findall("image/mask")] == [
        (36, "0"),
        (9, "1"),
        (6, "0"),
        (1, "2"),
    ]


def test_groups_are_counted_through_the_task(tmp_path: Path) -> None:
    two = np.array([[1, 0, 1]], np.bool_)
    samples = [Labelled(name, "val", 1, 3, None, (instance(two), instance(~two), instance(two, 2))) for name in ("a.png", "b.png")]
    root = written(tmp_path, *samples, shape="polygon")
    groups = [[shape.attrib.get("group_id") for shape in image] for image in root.findall("image")]
    assert groups == [["1", "1", "2", "2", None], ["3", "3", "4", "4", None]]


def test_images_are_named_as_the_task_has_them_and_numbered_by_name(tmp_path: Path) -> None:
    samples = [Labelled(name, "val", 2, 2, None, (), image=b"x", media_type="image/png") for name in ("val/z/b.png", "images/a&b.png")]
    for names, first, second in (
        ("flat", "z__b.png", "a&b.png"),
        ("path", "z/b.png", "a&b.png"),
        ("base", "b.png", "a&b.png"),
        ("id", "val/z/b.png", "images/a&b.png"),
    ):
        root = written(tmp_path / names, *samples, names=names, image_root="bucket/set")
        assert [(image.attrib["id"], image.attrib["name"]) for image in root.findall("image")] == [
            ("1", f"bucket/set/{first}"),
            ("0", f"bucket/set/{second}"),
        ]
        assert (tmp_path / names / "val/images" / first).read_bytes() == b"x"


def test_what_cvat_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val/x/a.png and val/y/a.png would both be val/a:"):
        written(tmp_path, *(Labelled(f"val/{part}/a.png", "val", 2, 2, None, ()) for part in "xy"), names="base")
    with pytest.raises(InputError, match=r"a.png and a.jpg would both be val/a:"):  # CVAT would give both frames' labels to one
        written(tmp_path, *(Labelled(f"a.{suffix}", "val", 2, 2, None, ()) for suffix in ("png", "jpg")))
    with pytest.raises(LabelError, match="a character that XML cannot hold"):
        written(tmp_path, Labelled("a\x01.png", "", 2, 2, None, ()))
    store = open_store(str(tmp_path))
    with pytest.raises(ConfigError, match="a character that XML cannot hold"):
        cvat.build(cvat.Config(), store, DatasetSpec(name="bad", classes=object_classes(["a\x1b[0m"])))
    with pytest.raises(ConfigError, match="has no classes of objects"):
        cvat.build(cvat.Config(), store, DatasetSpec(name="bare", classes=(ClassSpec(name="background", color=(0, 0, 0), isthing=False),)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["mask", "polygon"])
def test_coco_tiny_comes_back_equal(tmp_path: Path, shape: str) -> None:
    run_ingest(data_folder("coco_tiny"), tmp_path / "data", format="coco")
    run_export(tmp_path / "data", tmp_path / "out", {"name": "cvat", "options": {"shape": shape, "names": "base"}})
    images = [
        image for path in (tmp_path / "out").glob("*/annotations.xml") for image in ElementTree.parse(path).getroot().findall("image")
    ]
    found = {image.attrib["name"]: objects(image) for image in images}
    assert len(found) == 80
    assert found == {image_id.rpartition("/")[2]: shapes for image_id, shapes in expected(tmp_path / "data").items()}
