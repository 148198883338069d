from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.errors import ConfigError, LabelError
from segtasks.readers._camvid_classes import segnet_spec
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import camvid
from segtasks.writers._base import Labelled
from tests.contracts.worlds import camvid as world
from tests.writers.roundtrip import there_and_back


def test_camvid_comes_back_equal(tmp_path: Path) -> None:
    world.write(open_store(str(tmp_path / "source")))
    before, after = there_and_back(tmp_path / "source", tmp_path, "camvid", "camvid", "camvid")
    assert len(before) == 4
    assert after == before


def test_classes_in_another_order_are_written_as_camvids_and_void_is_11(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    theirs = segnet_spec()
    spec = DatasetSpec(name="other", classes=(theirs.classes[8], theirs.classes[0]))  # car, sky
    writer = camvid.build(camvid.Config(), store, spec)
    writer.write(Labelled("x.png", "val", 1, 3, np.array([[0, 1, 255]], np.uint8), None))
    assert np.array(Image.open(tmp_path / "valannot/x.png")).tolist() == [[8, 0, 11]]


def test_other_classes_and_splits_are_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(ConfigError, match=r"CamVid has no class for \['cow'\]"):
        camvid.build(camvid.Config(), store, DatasetSpec(name="cows", classes=(ClassSpec(name="cow", color=(1, 2, 3)),)))
    writer = camvid.build(camvid.Config(), store, segnet_spec())
    with pytest.raises(LabelError, match="is in split 'nowhere'; CamVid has train, val, test"):
        writer.write(Labelled("x.png", "nowhere", 1, 1, np.zeros((1, 1), np.uint8), None))


def test_a_name_with_white_space_is_refused_as_it_would_tear_the_lists(tmp_path: Path) -> None:
    writer = camvid.build(camvid.Config(), open_store(str(tmp_path)), segnet_spec())
    with pytest.raises(LabelError, match="has white space, which divides image and label in a line"):
        writer.write(Labelled("my image.png", "val", 1, 1, np.zeros((1, 1), np.uint8), None, b"pixels", "image/png"))
    assert list(tmp_path.iterdir()) == []
