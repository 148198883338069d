from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from segtasks.codecs import rle
from segtasks.errors import ConfigError, LabelError
from segtasks.readers._objects import object_classes
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import yolo
from segtasks.writers._base import Labelled, Scored
from tests.contracts.worlds import yolo as world
from tests.writers.roundtrip import there_and_back

SPEC = DatasetSpec(name="made", classes=object_classes(["cat", "dog"]))


def instance(mask: np.ndarray, category: int, **more: object) -> Scored:
    counts = rle.encode(mask)
    return Scored(category, rle.bbox(counts, *mask.shape), float(mask.sum()), counts, **more)  # type: ignore[arg-type]


def test_ultralytics_labels_come_back_equal(tmp_path: Path) -> None:
    world.write(open_store(str(tmp_path / "source")))
    before, after = there_and_back(tmp_path / "source", tmp_path, "yolo", "yolo", "yolo", name=str)
    assert {key.rpartition("/")[2]: value for key, value in after.items()} == {
        key.rpartition("/")[2]: value for key, value in before.items()
    }


def test_holes_and_parts_are_in_one_line_and_come_back(tmp_path: Path) -> None:
    mask = np.zeros((9, 11), np.bool_)
    mask[1:8, 1:6] = True
    mask[3:5, 2:4] = False
    mask[2:4, 8:10] = True
    writer = yolo.build(yolo.Config(), open_store(str(tmp_path)), SPEC)
    writer.write(Labelled("a.png", "val", 9, 11, None, (instance(mask, 2),)))
    (line,) = (tmp_path / "labels/val/a.txt").read_text().splitlines()
    number, *places = line.split()
    assert number == "1"
    corners = [float(place) * side for place, side in zip(places, (11, 9) * (len(places) // 2))]
    assert rle.encode_polygons([corners], 9, 11) == rle.encode(mask)


def test_crowds_are_left_out_and_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = yolo.build(yolo.Config(), open_store(str(tmp_path)), SPEC)
    entry = writer.write(Labelled("a.png", "", 2, 2, None, (instance(np.ones((2, 2), np.bool_), 1, iscrowd=True),)))
    writer.finish({"": [entry]})
    assert (tmp_path / "labels/train/a.txt").read_text() == ""
    assert "1 crowds are left out" in caplog.text
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == {0: "cat", 1: "dog"}


def test_what_ultralytics_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(LabelError, match="is in split 'extra'; Ultralytics has train, val, test"):
        yolo.build(yolo.Config(), store, SPEC).write(Labelled("a.png", "extra", 2, 2, None, ()))
    with pytest.raises(ConfigError, match="has no classes of objects"):
        yolo.build(yolo.Config(), store, DatasetSpec(name="bare", classes=(ClassSpec(name="background", color=(0, 0, 0), isthing=False),)))


def test_ultralytics_looks_for_the_images_below_data_yaml_wherever_it_is_started(tmp_path: Path) -> None:
    """Without `path` it takes the file's own folder; `path: .` exists everywhere, and would be the folder it is started in."""
    writer = yolo.build(yolo.Config(), open_store(str(tmp_path)), SPEC)
    writer.finish({"train": [writer.write(Labelled("a.png", "train", 2, 2, None, ()))]})
    described = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert (described.get("path"), described["train"]) == (None, "images/train")
