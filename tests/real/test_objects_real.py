"""Objects as their annotators left them: one file a nucleus, labelme's polygons, Ultralytics' lines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from segtasks.codecs import rle
from segtasks.codecs.image import decode_image
from segtasks.errors import InputError, LabelError
from segtasks.readers import instance_folder, labelme, yolo
from segtasks.readers._base import RawSample
from segtasks.storage import open_store
from tests.real import data_folder

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
NAMES = ("2011_000003", "2011_000006", "2011_000025")


def test_every_nucleus_is_its_file_and_overlaps_survive() -> None:
    root = data_folder("dsb2018")
    reader = instance_folder.build(instance_folder.Config(class_name="nucleus"), open_store(str(root)))
    items = list(reader.scan())
    assert (len(items), {item.split for item in items}) == (60, {"train"})
    masks, overlapping = 0, {}
    for item in items:
        sample = reader.read(item)
        files = [np.array(Image.open(path)) > 0 for path in sorted((root / item.path).parent.parent.glob("masks/*.png"))]
        assert sample.instances is not None
        assert sample.mask is not None
        height, width = sample.mask.shape
        decoded = [rle.decode(one.counts, height, width) for one in sample.instances]
        np.testing.assert_array_equal(np.array(decoded), np.array(files))
        assert [one.area for one in sample.instances] == [mask.sum() for mask in files]
        np.testing.assert_array_equal(sample.mask, np.any(files, axis=0))
        shared = int((np.sum(files, axis=0) > 1).sum())
        if shared:
            overlapping[item.image_id.split("/")[1][:8]] = shared
        masks += len(files)
    assert masks == 1878
    assert overlapping == {"0a7d30b2": 2, "1609b1b8": 1, "175dbb36": 1, "547ef286": 2, "72e8c49d": 2}
    facts = decode_image(reader.read(items[0]).image, reader.spec().decode).facts
    assert facts["mode"] == "RGBA"


def by_name(kind: str, **options: object) -> tuple[Path, dict[str, RawSample], list[str]]:
    root = data_folder("labelme_examples") / kind
    reader = labelme.build(labelme.Config(**options), open_store(str(root)))  # type: ignore[arg-type]
    samples = {Path(item.image_id).stem: reader.read(item) for item in reader.scan()}
    assert sorted(samples) == list(NAMES)
    return root, samples, reader.spec().names


def numbered(sample: RawSample) -> NDArray[np.uint8]:
    """The objects in one image, the later above the earlier and ignored pixels 0, as SegmentationObject has them."""
    assert sample.instances is not None
    assert sample.mask is not None
    found = np.zeros(sample.mask.shape, np.uint8)
    for number, one in enumerate(sample.instances, 1):
        found[rle.decode(one.counts, *found.shape)] = number
    found[sample.mask == 255] = 0
    return found


@pytest.mark.parametrize("kind", ["semantic_segmentation", "instance_segmentation"])
def test_labelmes_polygons_are_its_voc_masks_but_for_a_pixel(kind: str) -> None:
    root, samples, names = by_name(kind)
    listed = (root / "data_dataset_voc/class_names.txt").read_text().split("\n")
    assert names == ["background", *listed[listed.index("_background_") + 1 :]]
    unlike = {}
    for name, sample in samples.items():
        assert sample.mask is not None
        unlike[name] = int((sample.mask != np.array(Image.open(root / f"data_dataset_voc/SegmentationClass/{name}.png"))).sum())
    assert unlike == {"2011_000003": 0, "2011_000006": 1, "2011_000025": 0}  # of 169,000 and 187,500; a Pillow of 2019 drew the one


def test_labelmes_groups_are_the_objects_of_its_voc() -> None:
    root, samples, _ = by_name("instance_segmentation")
    unlike = {}
    for name, sample in samples.items():
        stored = np.array(Image.open(root / f"data_dataset_voc/SegmentationObject/{name}.png"))
        found = numbered(sample)
        order = {int(np.bincount(stored[found == number]).argmax()): number for number in np.unique(found) if number}
        assert len(order) == len(sample.instances or ())  # one object of theirs for each of ours
        unlike[name] = int((found != np.vectorize(lambda value, order=order: order.get(value, 0))(stored)).sum())
    assert unlike == {"2011_000003": 0, "2011_000006": 1, "2011_000025": 0}


@pytest.mark.parametrize("fill", ["labelme", "coco"])
def test_labelmes_polygons_are_those_of_its_coco(fill: str) -> None:
    """Its JSON has areas and boxes of Pillow's pixels beside polygons whose pixels, by pycocotools, are others."""
    root, samples, names = by_name("instance_segmentation", fill=fill)
    published = COCO(str(root / "data_dataset_coco/annotations.json"))
    for image in published.dataset["images"]:
        sample = samples[Path(image["file_name"]).stem]
        assert sample.instances is not None
        wanted = []
        for annotation in published.imgToAnns[image["id"]]:
            counts = published.annToRLE(annotation)
            area = annotation["area"] if fill == "labelme" else float(coco.area(counts))
            bbox = annotation["bbox"] if fill == "labelme" else coco.toBbox(counts).tolist()
            wanted.append((published.cats[annotation["category_id"]]["name"], area, tuple(bbox)))
            if fill == "coco":
                assert counts["counts"] in {one.counts for one in sample.instances}
        found = [(names[one.category_id], one.area, one.bbox) for one in sample.instances]
        assert sorted(found) == sorted(wanted)


def test_each_kind_of_labelmes_shapes_is_read() -> None:
    root = data_folder("labelme_examples") / "primitives"
    shapes = json.loads((root / "primitives.json").read_text())["shapes"]
    kinds = Counter(shape["shape_type"] for shape in shapes)
    assert kinds == {"rectangle": 2, "circle": 1, "polygon": 1, "mask": 1, "line": 1, "point": 1, "linestrip": 1}
    reader = labelme.build(labelme.Config(), open_store(str(root)))
    (item,) = reader.scan()
    sample = reader.read(item)
    assert sample.meta["shapes_without_area"] == "3"
    assert len(sample.instances or ()) == 5
    reader = labelme.build(labelme.Config(line_width=10), open_store(str(root)))
    assert len(reader.read(item).instances or ()) == 8


def test_a_source_one_folder_too_high_is_read_and_says_what_it_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    root = data_folder("labelme_examples")
    items = list(labelme.build(labelme.Config(), open_store(str(root))).scan())
    assert len(items) == 7
    assert "1 JSON files are none of labelme's" in caplog.text
    assert "18 images have no JSON" in caplog.text


def test_cocos_polygons_as_ultralytics_lines_are_pycocotools_masks(tmp_path: Path) -> None:
    """Converted as by Ultralytics: coordinates divided by the sides, which it prints with six decimals. Objects of one part alone."""
    root = data_folder("coco_tiny")
    published = COCO(str(root / "annotations/instances_train2017.json"))
    numbers = {category: number for number, category in enumerate(sorted(published.cats))}
    names = {number: published.cats[category]["name"] for category, number in numbers.items()}
    (tmp_path / "data.yaml").write_text(f"train: images/train\nnames: {json.dumps(names)}\n")
    kept: dict[str, list[dict[str, Any]]] = {}
    for image in published.dataset["images"]:
        found = [one for one in published.imgToAnns[image["id"]] if not one["iscrowd"] and len(one["segmentation"]) == 1]
        kept[image["file_name"]] = found
        lines = []
        for one in found:
            sides = (image["width"], image["height"]) * (len(one["segmentation"][0]) // 2)
            corners = " ".join(f"{value / side:.6f}" for value, side in zip(one["segmentation"][0], sides, strict=True))
            lines.append(f"{numbers[one['category_id']]} {corners}\n")
        for folder in ("images/train", "labels/train"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images/train" / image["file_name"]).symlink_to(root / "train2017" / image["file_name"])
        (tmp_path / "labels/train" / image["file_name"]).with_suffix(".txt").write_text("".join(lines))
    reader = yolo.build(yolo.Config(), open_store(str(tmp_path)))
    objects = pixels = unlike = 0
    for item in reader.scan():
        sample = reader.read(item)
        assert sample.instances is not None
        assert sample.mask is not None
        for one, annotation in zip(sample.instances, kept[Path(item.path).name], strict=True):
            assert reader.spec().names[one.category_id] == published.cats[annotation["category_id"]]["name"]
            height, width = sample.mask.shape
            sides = (width, height) * (len(annotation["segmentation"][0]) // 2)
            written = [float(f"{value / side:.6f}") * side for value, side in zip(annotation["segmentation"][0], sides, strict=True)]
            assert one.counts == coco.frPyObjects([written], height, width)[0]["counts"]
            wanted = published.annToMask(annotation) > 0
            objects += 1
            pixels += int(wanted.sum())
            unlike += int((wanted != rle.decode(one.counts, height, width)).sum())
    assert objects == 644
    assert unlike < pixels / 5000  # COCO's corners are tenths, pycocotools rounds to fifths: a tie may go the other way


def test_stubs_of_ultralytics_layouts_are_read_or_refused_by_name() -> None:
    odd = data_folder("odd_datasets") / "datumaro"
    for name in ("yolo", "yolo_obb"):  # its YAML says `valid`, the folder is `val`
        with pytest.raises(InputError, match=r"data.yaml: val is '../valid/images', and no folder of that end has images"):
            list(yolo.build(yolo.Config(), open_store(str(odd / f"roboflow_dataset/{name}"))).scan())
    for name in ("annotations", "strict"):
        with pytest.raises(InputError, match=r"no Ultralytics data set at .*no YAML but"):
            list(yolo.build(yolo.Config(), open_store(str(odd / f"yolo_dataset/{name}"))).scan())
    detection = open_store(str(odd / "yolo_dataset/labels"))
    with pytest.raises(InputError, match=r"are boxes \(five numbers a line"):
        yolo.build(yolo.Config(), detection).spec()
    reader = yolo.build(yolo.Config(boxes="rectangle"), detection)
    items = list(reader.scan())
    assert [item.split for item in items] == ["train", "val"]
    sample = reader.read(items[0])
    assert [reader.spec().names[one.category_id] for one in sample.instances or ()] == ["label_2", "label_4"]
    with pytest.raises(LabelError, match="line 1 is a box"):
        yolo.build(yolo.Config(), detection, reader.spec()).read(items[0])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kaggle_dataset/image_mask", "one mask an image the format folder"),
        ("mots_dataset", "has 3 images and no masks/"),
        ("labelme_dataset", "no images at"),  # LabelMe of MIT, not labelme
    ],
)
def test_look_alikes_of_folders_of_masks_are_refused_with_a_hint(name: str, said: str) -> None:
    root = data_folder("odd_datasets") / "datumaro" / name
    with pytest.raises(InputError, match=said):
        list(instance_folder.build(instance_folder.Config(), open_store(str(root))).scan())


@pytest.mark.parametrize("name", ["labelme_dataset", "segment_anything_dataset", "coco_dataset"])
def test_other_peoples_json_is_none_of_labelmes(name: str) -> None:
    root = data_folder("odd_datasets") / "datumaro" / name
    with pytest.raises(InputError, match="no labelme data at"):
        labelme.build(labelme.Config(), open_store(str(root))).spec()
