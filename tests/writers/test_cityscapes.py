from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.errors import ConfigError, LabelError
from segtasks.readers._cityscapes_labels import LABELS
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import cityscapes
from segtasks.writers._base import Labelled
from tests.contracts.worlds import cityscapes as world
from tests.writers.roundtrip import there_and_back


@pytest.mark.parametrize("classes", ["train", "all"])
def test_cityscapes_comes_back_equal_with_its_groups(tmp_path: Path, classes: str) -> None:
    world.write(open_store(str(tmp_path / "source")))
    reader = {"name": "cityscapes", "options": {"classes": classes}}
    before, after = there_and_back(tmp_path / "source", tmp_path, reader, "cityscapes", reader)
    assert len(before) == 5
    assert after == before
    name = "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"
    written, theirs = (np.array(Image.open(tmp_path / folder / name)) for folder in ("exported", "source"))
    kept = np.array([label.id for label in LABELS if classes == "all" or label.train_id != 255])
    raw = np.where(theirs < 1000, theirs, theirs // 1000)
    assert (np.where(written < 1000, written, written // 1000) == np.where(np.isin(raw, kept), raw, 0)).all()


def test_other_classes_and_images_without_a_split_are_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(ConfigError, match=r"Cityscapes has no class 'cars'\. Did you mean 'car'\?"):
        cityscapes.build(cityscapes.Config(), store, DatasetSpec(name="x", classes=(ClassSpec(name="cars", color=(0, 0, 0)),)))
    writer = cityscapes.build(cityscapes.Config(), store, DatasetSpec(name="x", classes=(ClassSpec(name="car", color=(0, 0, 0)),)))
    with pytest.raises(LabelError, match="is in no split"):
        writer.write(Labelled("x.png", "", 1, 1, None, None))
