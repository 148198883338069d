from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from segtasks.codecs import rle
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import folder
from segtasks.writers._base import Labelled, Scored
from tests.contracts.worlds import folder as world
from tests.stages.world import write_images
from tests.writers.roundtrip import there_and_back


def test_a_folder_comes_back_equal_with_masks_and_instances(tmp_path: Path) -> None:
    world.write(open_store(str(tmp_path / "source")))
    before, after = there_and_back(tmp_path / "source", tmp_path, "folder", "folder", "folder", name=str)
    assert len(before) == 5
    assert after == before


def test_an_image_that_is_shown_turned_is_written_upright(tmp_path: Path) -> None:
    write_images(tmp_path / "source", 1, size=(24, 32))
    path = tmp_path / "source/images/train/i0000.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn: 24 wide, 32 high
    Image.open(path).convert("RGB").save(path.with_suffix(".jpg"), exif=exif, quality=100)
    path.unlink()
    mask = tmp_path / "source/masks/train/i0000.png"
    mask.write_bytes(b"")
    Image.fromarray(np.zeros((32, 24), np.uint8)).save(mask)
    there_and_back(tmp_path / "source", tmp_path, "folder", "folder", "folder")
    with Image.open(tmp_path / "exported/images/train/i0000.jpg") as written:
        assert written.size == (24, 32)
        assert written.getexif().get(0x0112, 1) == 1


def test_overlapping_instances_are_left_out_and_said_to_be(tmp_path: Path, caplog) -> None:
    spec = DatasetSpec(name="made", classes=(ClassSpec(name="ground", color=(0, 0, 0)), ClassSpec(name="thing", color=(9, 9, 9))))
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 1:5] = 1
    left, right = mask.astype(bool), mask.astype(bool)
    left[:, 4:], right[:, :2] = False, False
    instances = tuple(Scored(1, (0, 0, 0, 0), 1.0, rle.encode(part)) for part in (left, right))
    writer = folder.build(folder.Config(), open_store(str(tmp_path)), spec)
    entry = writer.write(Labelled("a/b.png", "train", 4, 6, mask, instances))
    writer.finish({"train": [entry]})
    assert not (tmp_path / "instances").exists()
    assert "instances of 1 images overlap" in caplog.text
    assert [one["name"] for one in yaml.safe_load((tmp_path / "dataset.yaml").read_text())["classes"]] == ["ground", "thing"]
    assert not (tmp_path / "images").exists()  # labels only
