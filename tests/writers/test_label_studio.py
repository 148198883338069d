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
from segtasks.errors import ConfigError
from segtasks.readers._objects import object_classes
from segtasks.shards import open_snapshot
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import _brush, label_studio
from segtasks.writers._base import Labelled, Scored
from tests.contracts.worlds import camvid as camvid_world
from tests.contracts.worlds import coco as coco_world
from tests.real import data_folder
from tests.stages.world import run_ingest
from tests.writers.roundtrip import run_export

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
SPEC = DatasetSpec(name="made", classes=object_classes(["cat", 'a "<dog>" & co']))


def instance(mask: np.ndarray, category: int = 1, **more: Any) -> Scored:
    counts = rle.encode(mask)
    return Scored(category, rle.bbox(counts, *mask.shape), float(mask.sum()), counts, **more)


def written(folder: Path, *samples: Labelled, **options: Any) -> list[dict[str, Any]]:
    writer = label_studio.build(label_studio.Config(**options), open_store(str(folder)), SPEC)
    writer.finish({samples[0].split: [writer.write(sample) for sample in samples]})
    return [task for path in sorted((folder / "tasks").iterdir()) for task in json.loads(path.read_text())]


def encoded(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    top, left = int(rows.min()), int(columns.min())
    return _brush.encode(mask[top : rows.max() + 1, left : columns.max() + 1], top, left, *mask.shape)


def unpacked(data: list[int]) -> np.ndarray:
    """The values, read bit by bit as rle-pack describes them."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    lengths: list[int] = []
    missing = count
    while missing > 0:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        missing -= length
        values += [read(word)] if repeated else [read(word) for _ in range(length)]
        lengths += [length] if repeated else [1] * length
    assert missing == 0
    assert 0 < len(bits) - place <= 8
    return np.repeat(np.array(values, np.uint8), lengths)


def drawn(result: dict[str, Any]) -> np.ndarray:
    height, width, value = result["original_height"], result["original_width"], result["value"]
    if result["type"] == "polygonlabels":
        corners = [round(place * side / 100, 6) for point in value["points"] for place, side in zip(point, (width, height), strict=True)]
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([corners], height, width))).astype(bool)
    image = unpacked(value["rle"]).reshape(height, width, 4)
    assert (image == image[:, :, :1]).all()
    return image[:, :, 3] == 255


def objects(task: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Label and pixels of each object, with the parts that name it as their parent."""
    found: dict[str, tuple[str, np.ndarray]] = {}
    for result in task["predictions"][0]["result"]:
        (label,) = result["value"][result["type"]]
        mask = drawn(result)
        if "parentID" in result:
            found[result["parentID"]][1][mask] = True
        else:
            assert result["id"] not in found
            found[result["id"]] = (label, mask)
    return sorted((label, mask.tobytes()) for label, mask in found.values())


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


@settings(max_examples=80, deadline=None)
@given(mask=st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=16)))
def test_a_brush_comes_back_equal(mask: np.ndarray) -> None:
    if mask.any():
        np.testing.assert_array_equal(unpacked(encoded(mask)).reshape(*mask.shape, 4), np.repeat(mask[:, :, None] * np.uint8(255), 4, 2))


def test_a_brush_is_the_bytes_that_label_studios_sdk_writes() -> None:
    small = np.zeros((5, 7), np.bool_)
    small[1:4, 2:6], small[2, 3], small[4, 6] = True, False, True
    assert encoded(small) == [
        0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 248, 192, 39, 255, 182, 1, 127, 255, 13, 128, 71, 254,
    ]  # fmt: skip
    long = np.zeros((3, 50000), np.bool_)  # runs of more than 2^16 values
    long[1, 10:49990] = True
    assert encoded(long) == [
        0, 9, 39, 192, 57, 27, 255, 255, 255, 0, 255, 255, 224, 31, 255, 252, 3, 134, 179, 128, 127, 255, 255, 255, 255, 255, 255, 255, 255,
        255, 248, 103, 127, 255, 255, 255, 0, 255, 255, 224, 31, 255, 252, 3, 134, 179, 128, 0,
    ]  # fmt: skip
    assert encoded(np.ones((2, 4), np.bool_)) == [0, 0, 0, 32, 57, 27, 254, 31, 255, 0]


@settings(max_examples=40, deadline=None)
@given(mask=st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_polygons_of_percents_come_back_equal(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    sample = Labelled("a.png", "", *mask.shape, None, (instance(mask),))
    (task,) = written(tmp_path_factory.mktemp("label-studio"), sample, shape="polygon")
    assert objects(task) == ([("cat", mask.tobytes())] if mask.any() else [])


@pytest.mark.parametrize("shape", ["brush", "polygon"])
def test_cocos_objects_come_back_and_ids_stay(tmp_path: Path, shape: str) -> None:
    coco_world.write(open_store(str(tmp_path / "source")))
    run_ingest(tmp_path / "source", tmp_path / "data", format="coco")
    texts = []
    for number in range(2):
        run_export(tmp_path / "data", tmp_path / f"out{number}", {"name": "label_studio", "options": {"shape": shape}})
        texts.append([(tmp_path / f"out{number}/tasks/{split}-0001.json").read_text() for split in ("train", "val")])
    assert texts[0] == texts[1]
    tasks = {task["data"]["image_id"]: task for text in texts[0] for task in json.loads(text)}
    assert {image_id: objects(task) for image_id, task in tasks.items()} == expected(tmp_path / "data")
    ids = [result["id"] for task in tasks.values() for result in task["predictions"][0]["result"]]
    assert len(ids) == len(set(ids))
    for task in tasks.values():
        root, _, path = task["data"]["image"].partition("=")
        assert root == "/data/local-files/?d"
        assert (tmp_path / "out0" / path).is_file()
    notes = [result.get("meta") for result in tasks["train2017/2.jpg"]["predictions"][0]["result"]]
    assert notes
    assert all(note == {"text": ["crowd"]} for note in notes)


def test_each_class_of_a_mask_is_an_object_and_ignored_pixels_are_in_none(tmp_path: Path) -> None:
    camvid_world.write(open_store(str(tmp_path / "source")))
    run_ingest(tmp_path / "source", tmp_path / "data", format="camvid")
    run_export(tmp_path / "data", tmp_path / "out", "label_studio")
    (task, *_) = json.loads((tmp_path / "out/tasks/val-0001.json").read_text())
    names = [label.attrib["value"] for label in ElementTree.parse(tmp_path / "out/label_config.xml").getroot().iter("Label")]
    stored = camvid_world.labels(0, 12)
    assert dict(objects(task)) == {name: (stored == index).tobytes() for index, name in enumerate(names)}
    assert "score" not in task["predictions"][0]


@pytest.mark.parametrize(("shape", "tag", "kind"), [("brush", "BrushLabels", "brushlabels"), ("polygon", "PolygonLabels", "polygonlabels")])
def test_results_fit_the_labelling_interface(tmp_path: Path, shape: str, tag: str, kind: str) -> None:
    sample = Labelled("a.png", "", 2, 3, None, (instance(np.ones((2, 3), np.bool_), 2),))
    (task,) = written(tmp_path, sample, shape=shape, from_name="seg", to_name="img")
    text = (tmp_path / "label_config.xml").read_text()
    assert "<?xml" not in text
    view = ElementTree.fromstring(text)
    (control, image) = view.find(tag), view.find("Image")
    assert control is not None
    assert image is not None
    assert (image.attrib["name"], image.attrib["value"], control.attrib) == ("img", "$image", {"name": "seg", "toName": "img"})
    assert [label.attrib for label in control] == [
        {"value": "cat", "background": "#800000"},
        {"value": 'a "<dog>" & co', "background": "#008000"},
    ]
    (result,) = task["predictions"][0]["result"]
    assert (result["type"], result["from_name"], result["to_name"]) == (kind, "seg", "img")
    assert result["value"][kind] == ['a "<dog>" & co']


def test_predictions_have_their_model_and_scores(tmp_path: Path) -> None:
    mask = np.ones((2, 3), np.bool_)
    sample = Labelled("a.png", "", 2, 3, None, (instance(mask, score=0.75), instance(mask, 2, score=0.25), instance(mask)))
    (task,) = written(tmp_path / "predictions", sample, model_version="unet-7")
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("unet-7", 0.5)
    assert [(result.get("score"), result["origin"]) for result in prediction["result"]] == [
        (0.75, "prediction"),
        (0.25, "prediction"),
        (None, "prediction"),
    ]
    (task,) = written(tmp_path / "annotations", sample, results="annotations")
    assert "predictions" not in task
    assert set(task["annotations"][0]) == {"result"}
    assert {result["origin"] for result in task["annotations"][0]["result"]} == {"manual"}


@pytest.mark.parametrize(
    ("root", "url"),
    [
        ("/data/local-files/?d=sets", "/data/local-files/?d=sets/images/val/n%26t/a%20%23b.png"),
        ("https://host/x/", "https://host/x/images/val/n%26t/a%20%23b.png"),
        ("s3://bucket/x", "s3://bucket/x/images/val/n&t/a #b.png"),
    ],
)
def test_an_images_url_is_quoted_but_a_buckets_key_is_not(tmp_path: Path, root: str, url: str) -> None:
    sample = Labelled("val/n&t/a #b.png", "val", 2, 2, None, (), image=b"x", media_type="image/png")
    (task,) = written(tmp_path, sample, image_root=root)
    assert task["data"]["image"] == url
    assert (tmp_path / "images/val/n&t/a #b.png").read_bytes() == b"x"


def test_images_that_are_not_written_keep_their_own_place(tmp_path: Path) -> None:
    (task,) = written(tmp_path, Labelled("images/val/a.jpg", "val", 2, 2, None, ()), image_root="s3://bucket")
    assert task["data"]["image"] == "s3://bucket/images/val/a.jpg"
    assert not (tmp_path / "images").exists()


def test_tasks_go_to_files_of_a_bounded_number(tmp_path: Path) -> None:
    samples = [Labelled(f"{number}.png", "val", 2, 2, None, ()) for number in range(5)]
    tasks = written(tmp_path, *samples, tasks_per_file=2)
    assert [task["data"]["image_id"] for task in tasks] == [sample.image_id for sample in samples]
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == ["val-0001.json", "val-0002.json", "val-0003.json"]


def test_what_label_studio_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(ConfigError, match="a character that XML cannot hold"):
        label_studio.build(label_studio.Config(), store, DatasetSpec(name="bad", classes=object_classes(["a\x00b"])))
    bare = DatasetSpec(name="bare", classes=(ClassSpec(name="background", color=(0, 0, 0), isthing=False),))
    with pytest.raises(ConfigError, match="has no classes of objects"):
        label_studio.build(label_studio.Config(), store, bare)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["brush", "polygon"])
def test_coco_tiny_comes_back_equal(tmp_path: Path, shape: str) -> None:
    run_ingest(data_folder("coco_tiny"), tmp_path / "data", format="coco")
    run_export(tmp_path / "data", tmp_path / "out", {"name": "label_studio", "options": {"shape": shape}})
    (file,) = (tmp_path / "out/tasks").iterdir()
    tasks = json.loads(file.read_text())
    assert len(tasks) == 80
    assert {task["data"]["image_id"]: objects(task) for task in tasks} == expected(tmp_path / "data")
