import numpy as np
import pytest
import yaml
from PIL import Image

from segtasks import plugins
from segtasks.codecs import rle
from segtasks.errors import InputError, LabelError
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import _files
from segtasks.writers._base import Labelled, Scored
from segtasks.writers._files import image_suffix, require_unique, stem_of
from tests.writers.roundtrip import stem, there_and_back


def sample(image_id, media_type="image/png"):
    return Labelled(image_id=image_id, split="train", height=1, width=1, mask=None, instances=None, image=None, media_type=media_type)


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("images/train/a.png#y=0000,x=0512", "a#y=0000,x=0512.png"),
        ("b/c.tif#y=00,x=64#y=0000,x=0016", "b/c#y=00,x=64#y=0000,x=0016.png"),
        ("patient.nii.gz#k=0007", "patient.nii#k=0007.png"),
        ("shot#1.png", "shot#1.png"),
        ("shot#.v=2.jpg", "shot#.v=2.png"),
    ],
)
def test_a_part_of_a_file_keeps_its_place_in_the_name(image_id, name):
    one = sample(image_id)
    assert stem_of(one) + image_suffix(one) == name


def test_tiles_keep_their_images_own_suffix():
    assert image_suffix(sample("a.JPEG#y=0000,x=0512", "image/jpeg")) == ".JPEG"


@pytest.mark.parametrize("split", ["..", "../../elsewhere", "a/b", "a\\b", ".hidden", "two\nlines"])
def test_a_split_that_leads_out_of_the_target_is_refused(split):
    with pytest.raises(LabelError, match="cannot be a folder's name"):
        stem_of(Labelled("a.png", split, 1, 1, None, None))


def test_two_images_of_one_name_are_both_named_in_any_splits():
    splits = {
        "train": [{"file": "a", "image_id": "a.png"}, {"file": "b", "image_id": "b.png"}],
        "val": [{"file": "a", "image_id": "x/a.png"}],
    }
    with pytest.raises(InputError, match=r"a\.png and x/a\.png would both be a: "):
        require_unique(splits)
    require_unique({"train": splits["train"]})
    require_unique({})


def test_names_whose_hashes_are_equal_are_two(monkeypatch):
    monkeypatch.setattr(_files, "_hash", lambda name: 7)
    require_unique({"": [{"file": "a", "image_id": "a.png"}, {"file": "b", "image_id": "b.png"}]})


SPEC = DatasetSpec(name="made", classes=(ClassSpec(name="road", color=(0, 0, 0)), ClassSpec(name="car", color=(9, 9, 9))))
WRITERS = ("camvid", "cityscapes", "coco", "cvat", "folder", "label_studio", "labelme", "panoptic", "voc", "yolo")


def built(name, folder):
    module = plugins.load("writers", name)
    return module.build(module.Config(), open_store(str(folder)), SPEC)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("camvid", "coco")])
def test_an_image_that_is_refused_leaves_no_file(tmp_path, name):
    """CamVid takes no objects, and COCO their run lengths as they are."""
    bad = Scored(1, (0, 0, 2, 2), 4.0, b"0400")
    with pytest.raises(LabelError):
        built(name, tmp_path).write(Labelled("a.png", "train", 2, 2, np.zeros((2, 2), np.uint8), (bad,), b"pixels", "image/png"))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("camvid", "cityscapes")])  # these need a split
def test_images_of_no_split_and_of_one_called_default_are_all_listed(tmp_path, name):
    writer = built(name, tmp_path)
    mask = np.ones((2, 2), np.uint8)
    splits = ("", "train") if name == "yolo" else ("", "default")
    writer.finish({split: [writer.write(Labelled(f"image{number}.png", split, 2, 2, mask, None))] for number, split in enumerate(splits)})
    text = [str(path) for path in tmp_path.rglob("*")]
    text += [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".json", ".txt", ".xml")]
    assert all(any(f"image{number}" in one for one in text) for number in (0, 1))
    listed = {"coco": "annotations/instances_default.json", "panoptic": "annotations/panoptic_default.json"}
    listed |= {"voc": "ImageSets/Segmentation/default.txt", "cvat": "default/annotations.xml", "label_studio": "tasks/default-0001.json"}
    if name in listed:
        assert all(f"image{number}" in (tmp_path / listed[name]).read_text() for number in (0, 1))


@pytest.mark.parametrize("name", ["folder", "voc"])
def test_objects_without_a_mask_are_left_out_and_said_to_be(tmp_path, caplog, name):
    writer = built(name, tmp_path)
    one = Scored(1, (0, 0, 2, 2), 4.0, rle.encode(np.ones((2, 2), np.bool_)))
    writer.finish({"train": [writer.write(Labelled("a.png", "train", 2, 2, None, (one,)))]})
    assert "instances of 1 images without masks" in caplog.text
    assert "overlap" not in caplog.text


@pytest.mark.parametrize(
    ("name", "reader"), [("coco", "coco"), ("labelme", "labelme"), ("panoptic", "coco_panoptic"), ("voc", "voc"), ("yolo", "yolo")]
)
def test_names_with_spaces_signs_and_other_scripts_come_back(tmp_path, name, reader):
    names = ["train/my image 1.png", "train/Straße ü/ñ (2).png", "val/a#b&c.png", "val/x.y.z.png", "val/写真.png"]
    mask = np.zeros((8, 9), np.uint8)
    mask[2:4, 2:5], mask[5:7, 3:6] = 1, 2
    for number, path in enumerate(names):
        for folder, pixels in (("images", mask[::-1] + number), ("masks", mask)):
            target = tmp_path / "source" / folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)
    classes = [{"name": name, "color": [number, 0, 0]} for number, name in enumerate(("ground", "red car, old", "Straße 1"))]
    (tmp_path / "source/dataset.yaml").write_text(yaml.safe_dump({"name": "odd", "classes": classes}))
    before, after = there_and_back(tmp_path / "source", tmp_path, "folder", name, reader, name=lambda one: stem(one).rpartition("__")[2])
    assert set(after) == set(before) == {"my image 1", "ñ (2)", "a#b&c", "x.y.z", "写真"}
    assert [after[one].pixels for one in before] == [before[one].pixels for one in before]
    if name in ("coco", "yolo"):  # these have objects alone
        assert all({label for label, _, _ in one.instances} == {"ground", "red car, old", "Straße 1"} for one in after.values())
    else:
        assert [after[one].mask for one in before] == [before[one].mask for one in before]
