from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.errors import ConfigError, LabelError
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import voc
from segtasks.writers._base import Labelled
from tests.contracts.worlds import camvid as camvid_world
from tests.contracts.worlds import voc as world
from tests.writers.roundtrip import there_and_back


def test_voc_comes_back_equal_with_its_objects(tmp_path: Path) -> None:
    world.write(open_store(str(tmp_path / "source")))
    before, after = there_and_back(tmp_path / "source", tmp_path, "voc", "voc", "voc")
    assert before
    assert after == before


def test_other_classes_are_named_and_void_is_255(tmp_path: Path) -> None:
    camvid_world.write(open_store(str(tmp_path / "source")))
    before, after = there_and_back(tmp_path / "source", tmp_path, "camvid", "voc", "voc")
    assert after == before
    stored = np.array(Image.open(tmp_path / "exported/SegmentationClass/0016E5_1.png"))
    assert 255 in stored
    assert stored[stored != 255].max() == 10
    assert (tmp_path / "exported/class_names.txt").read_text().splitlines()[:2] == ["__ignore__", "sky"]


def test_more_classes_than_a_mask_can_hold_are_refused(tmp_path: Path) -> None:
    classes = tuple(ClassSpec(name=f"c{number}", color=(0, 0, 0)) for number in range(256))
    with pytest.raises(ConfigError, match="has 256 classes; VOC's masks hold 1 to 255"):
        voc.build(voc.Config(), open_store(str(tmp_path)), DatasetSpec(name="many", classes=classes, ignore_index=65535))


@pytest.mark.parametrize("image_id", [" a.png", "a .png", "a\nb.png", "a\u2028b.png"])
def test_a_name_that_a_list_cannot_hold_is_refused(tmp_path: Path, image_id: str) -> None:
    spec = DatasetSpec(name="x", classes=(ClassSpec(name="c", color=(0, 0, 0)),))
    with pytest.raises(LabelError, match="white space at an end or a line break"):
        voc.build(voc.Config(), open_store(str(tmp_path)), spec).write(Labelled(image_id, "val", 1, 1, None, None, b"pixels", "image/png"))
    assert list(tmp_path.iterdir()) == []
