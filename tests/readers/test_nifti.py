from __future__ import annotations

import contextlib
import gzip
import io
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segtasks.codecs.volume import decode_volume
from segtasks.config import validate
from segtasks.engines.local import LocalEngine
from segtasks.errors import ConfigError, DataFault, DecodeError, InputError, LabelError, LimitError, MissingObject, ShapeError
from segtasks.readers import nifti
from segtasks.readers._base import RawSample
from segtasks.readers._kept import Kept
from segtasks.readers.nifti import Config, NiftiReader, build
from segtasks.shards import open_snapshot
from segtasks.spec import DecodePolicy
from segtasks.stages.config import IngestConfig, PreprocessConfig
from segtasks.stages.ingest import ingest
from segtasks.stages.pictures import pictures
from segtasks.stages.preprocess import preprocess
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample
from segtasks.training.index import index_split

LPS = np.array([[-1.0, 0, 0, 3], [0, -1.5, 0, 4], [0, 0, 2.5, -5], [0, 0, 0, 1]])
SHAPE = (5, 4, 3)  # X, Y, Z as the files have them


def put(folder: Path, path: str, array: NDArray[Any], affine: NDArray[np.float64] = LPS) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array, affine, dtype=array.dtype).to_filename(folder / path)


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(100, 30, shape or SHAPE).astype(np.float32)


def truth(seed: int, values: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, values, SHAPE, np.uint8)


def reader(folder: Path, **options: Any) -> NiftiReader:
    return build(validate(Config, options), open_store(str(folder)))


def canonical(path: Path) -> NDArray[Any]:
    """Z, Y, X by nibabel."""
    array: NDArray[Any] = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).T
    return array


def pixels(sample: RawSample) -> NDArray[Any]:
    return np.array(Image.open(io.BytesIO(sample.image)))


def intensities(sample: RawSample) -> NDArray[np.float64]:
    low, high = float(sample.meta["intensity_low"]), float(sample.meta["intensity_high"])
    return low + pixels(sample) * (high - low) / int(sample.meta["intensity_levels"])


def one_case(folder: Path, label: NDArray[Any] | None = None, image: NDArray[Any] | None = None, affine: NDArray[Any] = LPS) -> None:
    put(folder, "images/a.nii.gz", noise(1) if image is None else image)
    if label is not None:
        put(folder, "labels/a.nii.gz", label, affine)


@pytest.mark.parametrize(
    ("axis", "letter", "cut", "spacing"), [("axial", "z", 0, (1.5, 1)), ("coronal", "y", 1, (2.5, 1)), ("sagittal", "x", 2, (2.5, 1.5))]
)
def test_slices_are_the_planes_of_the_canonical_volume(
    tmp_path: Path, axis: str, letter: str, cut: int, spacing: tuple[float, ...]
) -> None:
    one_case(tmp_path, truth(2))
    found = reader(tmp_path, axis=axis, percentiles=(0, 100))
    image, label = canonical(tmp_path / "images/a.nii.gz"), canonical(tmp_path / "labels/a.nii.gz")
    items = list(found.scan())
    assert [item.image_id for item in items] == [f"images/a.nii.gz#{letter}={at:04d}" for at in range(image.shape[cut])]
    assert {(item.path, item.group_id, item.split) for item in items} == {("images/a.nii.gz", "a", "")}
    files = [tmp_path / path for path in ("images/a.nii.gz", "labels/a.nii.gz")]
    assert {item.size for item in items} == {sum(file.stat().st_size for file in files) // len(items)}
    step = (image.max() - image.min()) / 65535
    for at, item in enumerate(items):
        sample = found.read(item)
        np.testing.assert_allclose(intensities(sample), image.take(at, cut), atol=0.51 * step, rtol=0)
        np.testing.assert_array_equal(sample.mask, label.take(at, cut))
        assert sample.spacing == spacing
        assert (sample.meta["orientation"], sample.meta["axis"], sample.meta["slice"]) == ("LPS", axis, str(at))
        assert json.loads(sample.meta["affine"]) == nibabel.as_closest_canonical(nibabel.load(files[0])).affine.tolist()


def test_intensities_are_cut_at_the_percentiles_of_the_volume_or_at_a_window(tmp_path: Path) -> None:
    one_case(tmp_path)
    values = canonical(tmp_path / "images/a.nii.gz")
    for options, low, high in (
        ({"percentiles": (10, 90)}, *np.percentile(values, (10, 90))),
        ({"window": (100, 40)}, 80, 120),
        ({}, *np.percentile(values, (0.5, 99.5))),
    ):
        found = reader(tmp_path, **options)
        codes = np.stack([pixels(found.read(item)) for item in found.scan()])
        assert codes.dtype == np.uint16
        np.testing.assert_array_equal(codes, np.rint((np.clip(values, low, high).astype(np.float64) - low) / (high - low) * 65535))


def test_values_that_are_not_finite_are_black_or_white_and_counted(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 2), np.float32)
    image[:, :, 0] = [[np.nan, np.inf], [-np.inf, 10]]
    one_case(tmp_path, image=image)
    found = reader(tmp_path, percentiles=(0, 100))
    first, second = map(found.read, found.scan())
    np.testing.assert_array_equal(pixels(first), [[65535, 65535], [0, 0]])  # 10 and inf, -inf and nan: both axes turned from L-P to R-A
    assert first.meta["non_finite"] == "3"
    assert "non_finite" not in second.meta
    put(tmp_path, "images/a.nii.gz", np.full((2, 2, 2), np.nan, np.float32))
    assert not pixels(found.read(next(iter(reader(tmp_path).scan())))).any()


def test_nnunet_channels_become_colours_with_its_classes_and_splits(tmp_path: Path) -> None:
    described = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
        "name": "Brains",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    for case in ("imagesTr/b_1", "imagesTr/b_2", "imagesTs/b_3"):
        put(tmp_path, f"{case}_0000.nii.gz", noise(0))
        put(tmp_path, f"{case}_0001.nii.gz", noise(1))
    put(tmp_path, "labelsTr/b_1.nii.gz", truth(0, 4))
    found = reader(tmp_path, percentiles=(0, 100))
    assert found.spec().name == "Brains"
    assert (found.spec().names, found.spec().ignore_index) == (["background", "whole", "core"], 255)
    items = list(found.scan())
    assert {(item.split, item.group_id, item.labels.get("mask")) for item in items} == {
        ("train", "b_1", "labelsTr/b_1.nii.gz"),
        ("train", "b_2", "labelsTr/b_2.nii.gz"),
        ("test", "b_3", None),
    }
    by_id = {item.image_id: item for item in items}
    sample = found.read(by_id["imagesTr/b_1_0000.nii.gz#z=0001"])
    assert sample.meta["channels"] == "T1, FLAIR"
    red, green, blue = np.moveaxis(pixels(sample), -1, 0)
    low, high = (list(map(float, sample.meta[key].split(", "))) for key in ("intensity_low", "intensity_high"))
    for at, color in enumerate((red, green)):
        plane = canonical(tmp_path / f"imagesTr/b_1_000{at}.nii.gz")[1]
        np.testing.assert_allclose(low[at] + color * (high[at] - low[at]) / 255, plane, atol=0.51 * (high[at] - low[at]) / 255)
    assert not blue.any()
    label = canonical(tmp_path / "labelsTr/b_1.nii.gz")[1]
    np.testing.assert_array_equal(sample.mask, np.where(label == 3, 255, label))
    with pytest.raises(LabelError, match=r"labelsTr/b_2\.nii\.gz is missing"):
        found.read(by_id["imagesTr/b_2_0000.nii.gz#z=0000"])
    assert found.read(by_id["imagesTs/b_3_0000.nii.gz#z=0000"]).mask is None
    (tmp_path / "imagesTr/b_1_0001.nii.gz").unlink()
    flair = reader(tmp_path, channels="flair")
    without, *others = flair.scan()
    assert without.image_id == "imagesTr/b_1_0000.nii.gz"
    with pytest.raises(MissingObject, match="'b_1' has no file of channel '0001'"):
        flair.read(without)
    assert others[0].image_id == "imagesTr/b_2_0001.nii.gz#z=0000"
    with pytest.raises(InputError, match=r"no channel is called 'FLIAR'\. Did you mean 'FLAIR'"):
        list(reader(tmp_path, channels="FLIAR").scan())


def test_decathlon_modalities_are_on_the_fourth_axis_and_a_listed_case_that_is_not_there_is_an_item(tmp_path: Path) -> None:
    described = {
        "modality": {"0": "T2", "1": "ADC", "2": "DWI", "3": "PET"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "training": [{"image": f"./imagesTr/p_{at:02d}.nii.gz", "label": f"./labelsTr/p_{at:02d}.nii.gz"} for at in range(2)],
        "test": ["./imagesTs/p_07.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    put(tmp_path, "imagesTr/p_00.nii.gz", noise(0, *SHAPE, 4))
    put(tmp_path, "labelsTr/p_00.nii.gz", truth(0))
    put(tmp_path, "imagesTs/p_07.nii.gz", noise(7, *SHAPE, 4))
    (tmp_path / "imagesTr/._p_00.nii.gz").write_bytes(b"what macOS leaves")
    found = reader(tmp_path)
    items = list(found.scan())
    assert [(item.split, item.image_id) for item in items if "#z=0000" in item.image_id or "#" not in item.image_id] == [
        ("train", "imagesTr/p_00.nii.gz#z=0000"),
        ("test", "imagesTs/p_07.nii.gz#z=0000"),
        ("train", "imagesTr/p_01.nii.gz"),
    ]
    assert found.read(items[0]).meta["channels"] == "T2, ADC, DWI"
    pet = reader(tmp_path, channels=("PET",), percentiles=(0, 100))
    sample = pet.read(next(item for item in pet.scan() if item.split == "train"))
    plane = canonical(tmp_path / "imagesTr/p_00.nii.gz")[3, 0]
    np.testing.assert_allclose(intensities(sample), plane, atol=0.002)
    with pytest.raises(FileNotFoundError):
        found.read(items[-1])
    wrong = reader(tmp_path, channels=(5,))
    item = next(iter(wrong.scan()))
    with pytest.raises(ShapeError, match="has 4 channels"):
        wrong.read(item)


@pytest.mark.parametrize("mark", ["_", "-"])
def test_brats_folders_are_known_by_their_names(tmp_path: Path, mark: str) -> None:
    for case in ("x/BraTS_1", "x/BraTS_2"):
        name = case[2:]
        for seed, channel in enumerate(("flair", "t1", "t1ce", "t2")):
            put(tmp_path, f"{case}/{name}{mark}{channel}.nii.gz", noise(seed))
        put(tmp_path, f"{case}/{name}{mark}seg.nii.gz", np.where(truth(3) == 2, 4, truth(3)).astype(np.float32))
    found = reader(tmp_path, channels=("t1ce",))
    items = list(found.scan())
    assert len(items) == 6
    assert items[0].image_id == f"x/BraTS_1/BraTS_1{mark}t1ce.nii.gz#z=0000"
    assert items[0].labels == {"mask": f"x/BraTS_1/BraTS_1{mark}seg.nii.gz"}
    assert set(np.unique(found.read(items[0]).mask)) == {0, 1, 4}
    (tmp_path / f"x/BraTS_2/BraTS_2{mark}seg.nii.gz").unlink()
    without = next(item for item in reader(tmp_path).scan() if item.group_id == "BraTS_2")
    assert without.labels == {"mask": f"x/BraTS_2/BraTS_2{mark}seg.nii.gz"}


def test_patterns_say_any_other_layout(tmp_path: Path) -> None:
    for split, patient, visit in (("training", "p1", "v1"), ("training", "p1", "v2"), ("testing", "p2", "v1")):
        for name in ("t1", "t2", "roi"):
            put(tmp_path, f"{split}/{patient}/{patient}{visit}/{name}.nii", noise(0) if name != "roi" else truth(0))
    options = {"images": ["<split>/<patient>/<case>/t1", "<split>/<patient>/<case>/t2"], "labels": "<split>/<patient>/<case>/roi.nii"}
    items = list(reader(tmp_path, **options).scan())
    assert {(item.split, item.group_id, item.path) for item in items} == {
        ("training", "p1", "training/p1/p1v1/t1.nii"),
        ("training", "p1", "training/p1/p1v2/t1.nii"),
        ("testing", "p2", "testing/p2/p2v1/t1.nii"),
    }
    alone = list(reader(tmp_path, images="**/<case>/t2").scan())
    assert {item.path for item in alone} == {f"{path}/t2.nii" for path in ("training/p1/p1v1", "training/p1/p1v2", "testing/p2/p2v1")}
    with pytest.raises(ConfigError, match=r"placeholder 'cas'\. Did you mean 'case'"):
        reader(tmp_path, images="<cas>")
    with pytest.raises(ConfigError, match=r"has no \{case\}"):
        reader(tmp_path, images="*", labels="x/<case>")
    with pytest.raises(InputError, match=r"no label belongs to any image: labels testing/p2/p2v1/roi.nii.*images testing/p2/p2v1/t1.nii"):
        list(reader(tmp_path, images="**/<case>/t1", labels="<split>/<patient>/p<case>/roi.nii").scan())
    with pytest.raises(InputError, match=r"in no layout.*found testing/p2/p2v1/roi\.nii.*<case>_seg"):
        list(reader(tmp_path).scan())


def test_two_files_of_one_case_are_refused_with_both_names(tmp_path: Path) -> None:
    one_case(tmp_path)
    put(tmp_path, "images/a.nii", noise(1))
    with pytest.raises(InputError, match=r"images/a\.nii and images/a\.nii\.gz are both case 'a'"):
        list(reader(tmp_path).scan())
    assert len(list(reader(tmp_path, images="images/<case>.nii.gz").scan())) == 3


def test_whole_numbers_are_labels_in_any_type_and_others_are_not(tmp_path: Path) -> None:
    label = truth(0)
    for stored in (label.astype(np.float32), label.astype(np.float64) * 0.99999997, label.astype(">i2"), label.astype(np.int64)):
        one_case(tmp_path, stored)
        found = reader(tmp_path)
        masks = [found.read(item).mask for item in found.scan()]
        np.testing.assert_array_equal(masks, canonical(tmp_path / "labels/a.nii.gz").round())
    for value, shown in ((0.5, "0.5"), (np.nan, "nan")):
        one_case(tmp_path, np.where(label == 2, value, label).astype(np.float32))
        found = reader(tmp_path, classes=("background", "organ"))
        with pytest.raises(LabelError, match=rf"labels/a\.nii\.gz has values that are no label: \[{shown}\]"):
            found.read(next(iter(found.scan())))
    with pytest.raises(InputError, match=r"none of 1 labels looked at can be used.*\[nan\]"):
        reader(tmp_path).spec()


def test_a_brain_mask_whose_slope_makes_it_almost_one_is_not_emptied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.where(truth(0) > 0, 2**31 - 1, -(2**31)).astype(np.int32), LPS)
    image.header.set_slope_inter(2.0**-32, 0.5)
    one_case(tmp_path)
    (tmp_path / "labels").mkdir()
    data = bytearray(image.to_bytes())
    data[352:] = image.get_fdata().astype("<i4").tobytes(order="F")
    data[112:120] = np.array([2.0**-32, 0.5], "<f4").tobytes()
    (tmp_path / "labels/a.nii").write_bytes(bytes(data))
    stored = canonical(tmp_path / "labels/a.nii")
    assert 0 < stored.max() < 1
    found = reader(tmp_path)
    assert found.spec().names == ["background", "foreground"]
    np.testing.assert_array_equal([found.read(item).mask for item in found.scan()], stored > 0.5)


def test_one_hot_channels_are_classes_after_the_background(tmp_path: Path) -> None:
    label = truth(0)
    one_hot = np.stack([label == 1, label == 2], axis=-1).astype(np.float64)
    complete = np.stack([label == 0, label == 1, label == 2], axis=-1).astype(np.uint8)
    for stored in (one_hot, complete):
        one_case(tmp_path, stored)
        found = reader(tmp_path)
        assert found.spec().names == ["background", "class_1", "class_2"]
        np.testing.assert_array_equal([found.read(item).mask for item in found.scan()], label[::-1, ::-1].T)


def test_one_hot_channels_that_overlap_are_refused_unless_one_wins(tmp_path: Path) -> None:
    one_hot = np.zeros((*SHAPE, 2), np.float32)
    one_hot[:, :, 1, :] = 1
    one_case(tmp_path, one_hot)
    found = reader(tmp_path)
    first, second, _ = found.scan()
    assert not found.read(first).mask.any()
    with pytest.raises(LabelError, match=r"overlap in 20 voxels of this slice.*overlap: last"):
        found.read(second)
    for winner, value in (("last", 2), ("first", 1)):
        assert (reader(tmp_path, overlap=winner).read(second).mask == value).all()
    one_case(tmp_path, one_hot * 0.5)
    with pytest.raises(LabelError, match=r"2 channels with values|no label"):
        reader(tmp_path, classes=("a", "b", "c")).read(second)


def test_a_label_that_does_not_lie_on_its_image_is_refused_with_both(tmp_path: Path) -> None:
    one_case(tmp_path, truth(0)[:, :, :2])
    found = reader(tmp_path)
    with pytest.raises(LabelError, match=r"labels/a\.nii\.gz does not lie on its image.*5x4x2 and 5x4x3"):
        found.read(next(iter(found.scan())))
    one_case(tmp_path, truth(0), affine=np.eye(4))
    found = reader(tmp_path)
    with pytest.raises(LabelError, match=r"affines \[\[1\.0.*\[\[1\.0.*label_affine: ignored"):
        found.read(next(iter(found.scan())))
    found = reader(tmp_path, label_affine="ignored")
    np.testing.assert_array_equal([found.read(item).mask for item in found.scan()], truth(0)[::-1, ::-1].T)
    one_case(tmp_path, truth(0), affine=LPS + 1e-4)
    found = reader(tmp_path)
    assert found.read(next(iter(found.scan()))).mask is not None


def test_channels_on_other_grids_are_no_channels(tmp_path: Path) -> None:
    put(tmp_path, "a/t1.nii", noise(0))
    put(tmp_path, "a/t2.nii", noise(0, 5, 4, 2))
    found = reader(tmp_path, images=["<case>/t1", "<case>/t2"])
    with pytest.raises(ShapeError, match=r"a/t1\.nii and a/t2\.nii are not channels of one image.*5x4x3 and 5x4x2"):
        found.read(next(iter(found.scan())))


def test_values_are_mapped_to_classes_and_to_what_is_ignored(tmp_path: Path) -> None:
    one_case(tmp_path, np.choose(truth(0), [0, 205, 500]).astype(np.int16))
    with pytest.raises(InputError, match=r"values \[0, 205, 500\] do not look like class indices.*labels_map"):
        reader(tmp_path).spec()
    found = reader(tmp_path, labels_map={0: "background", 500: "ventricle", 205: "ignore"})
    assert found.spec().names == ["background", "ventricle"]
    assert found.spec().classes[1].source_id == 500
    np.testing.assert_array_equal([found.read(item).mask for item in found.scan()], np.choose(truth(0), [0, 255, 1])[::-1, ::-1].T)
    with pytest.raises(ConfigError, match="class 'aorta', which is not in classes"):
        reader(tmp_path, classes=("background",), labels_map={0: "background", 205: "aorta"}).spec()
    found = reader(tmp_path, classes=("background",), labels_map={0: 0})
    with pytest.raises(LabelError, match=r"values that are no class: \[205, 500\]"):
        found.read(next(iter(found.scan())))


def test_a_dataset_json_that_is_not_one_is_an_error_with_the_place(tmp_path: Path) -> None:
    one_case(tmp_path, truth(0))
    for text, found in (
        ("{", "dataset.json is not valid JSON"),
        ("[]", "dataset.json holds a list"),
        ('{"labels": []}', "labels is '"),
        ('{"labels": {"0": "a", "x": "b"}}', "labels has 'x': 'b'"),
        ('{"labels": {"a": 0, "b": 0}}', "gives 0 two names"),
        ('{"labels": {"0": "a", "1": "a"}}', "same name"),
        ('{"labels": {"a": 0, "b": [1, 2]}}', "regions_class_order is None"),
        ('{"labels": {"a": null}}', "labels has 'a'"),
        ('{"channel_names": ["CT"]}', "channels are"),
        ('{"training": [3]}', "training is"),
        ('{"training": {"a": 1}}', "training is"),
        ('{"file_ending": ".nrrd"}', "file_ending is '.nrrd'"),
    ):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=found):
            reader(tmp_path).spec()


def test_slices_without_a_label_are_left_out_if_asked(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[1, 1, 2] = 1
    one_case(tmp_path, label)
    options = {"skip_empty": True, "classes": ("background", "organ")}
    found = reader(tmp_path, **options)
    assert [found.read(item).empty for item in found.scan()] == [True, True, False]
    config = IngestConfig(source=str(tmp_path), output=str(tmp_path / "out"), format={"name": "nifti", "options": options})
    result = ingest(config, LocalEngine(workers=0))
    assert (result.counts["done"], result.counts["empty"]) == (1, 2)


def test_only_headers_are_read_to_list(tmp_path: Path) -> None:
    one_case(tmp_path, truth(0), np.random.default_rng(0).integers(0, 1000, (40, 40, 40)).astype(np.int16))
    (tmp_path / "labels/a.nii.gz").unlink()
    put(tmp_path, "images/b.nii", noise(0))
    read: list[tuple[str, int]] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(open_store(str(tmp_path)), name)

        def read(self, path: str) -> bytes:
            if path == "dataset.json":
                raise FileNotFoundError(path)
            raise AssertionError(path)

        def read_range(self, path: str, start: int, end: int) -> bytes:
            read.append((path, end - start))
            return open_store(str(tmp_path)).read_range(path, start, end)

    assert len(list(build(Config(), Watched()).scan())) == 43  # type: ignore[arg-type]
    assert sorted(read) == [("images/a.nii.gz", 8192), ("images/b.nii", 8192)]


def test_a_damaged_volume_is_refused_whole_and_its_neighbour_is_read(tmp_path: Path) -> None:
    one_case(tmp_path)
    put(tmp_path, "images/b.nii.gz", noise(2))
    whole = gzip.decompress((tmp_path / "images/b.nii.gz").read_bytes())
    (tmp_path / "images/b.nii.gz").write_bytes(gzip.compress(whole[:352]))  # a header alone
    (tmp_path / "images/c.nii").write_bytes(b"no volume")
    (tmp_path / "images/d.nii").write_bytes(b"")
    found = reader(tmp_path)
    items = list(found.scan())
    assert [item.image_id for item in items] == [
        *(f"images/{name}.nii.gz#z=000{at}" for name in "ab" for at in range(3)),
        "images/c.nii",
        "images/d.nii",
    ]
    for item in items[3:]:
        with pytest.raises(DecodeError, match="cut off" if "b." in item.path else "no NIfTI"):
            found.read(item)
    assert found.read(items[0]).image


def test_a_claim_of_too_many_voxels_is_one_item_that_is_refused(tmp_path: Path) -> None:
    one_case(tmp_path)
    found = build(Config(), open_store(str(tmp_path)), reader(tmp_path).spec().model_copy(update={"decode": DecodePolicy(max_pixels=59)}))
    (item,) = found.scan()
    with pytest.raises(LimitError, match=r"5x4x3 = 60 voxels; decode\.max_pixels is 59"):
        found.read(item)


def test_threads_decode_a_volume_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        put(tmp_path, f"images/{name}.nii", noise(ord(name)))
    opened: list[int] = []
    original = nifti.open_volume
    monkeypatch.setattr(nifti, "open_volume", lambda data, *rest, **more: opened.append(len(data)) or original(data, *rest, **more))
    found = reader(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        samples = list(pool.map(found.read, found.scan()))
    assert len(samples) == 9
    assert len(opened) == 3


def test_what_is_kept_is_bounded_and_a_failing_store_is_asked_again() -> None:
    kept: Kept[int] = Kept(2)
    made: list[str] = []

    def make(name: str, error: Exception | None = None) -> int:
        made.append(name)
        if error:
            raise error
        return len(made)

    for name in ("a", "b", "a", "c", "a", "b"):
        kept.get(name, lambda name=name: make(name))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    for error, kind in ((OSError("away"), OSError), (OSError("away"), OSError), (LabelError("bad"), LabelError)):
        with pytest.raises(kind):
            kept.get("x", lambda error=error: make("x", error))  # type: ignore[misc]
    with pytest.raises(LabelError, match="bad"):
        kept.get("x", lambda: make("x"))
    assert made[4:] == ["x", "x", "x"]


def test_other_threads_wait_for_the_one_that_makes() -> None:
    kept: Kept[int] = Kept(1)
    started, release = threading.Event(), threading.Event()
    made: list[int] = []

    def make() -> int:
        started.set()
        assert release.wait(10)
        made.append(1)
        return 7

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, "a", make)
        assert started.wait(10)
        second = pool.submit(kept.get, "a", make)
        release.set()
        assert (first.result(), second.result()) == (7, 7)
    assert made == [1]


def test_volumes_are_rows_with_masks_in_nifti_and_other_stages_refuse_them(tmp_path: Path) -> None:
    source, output = tmp_path / "in", str(tmp_path / "out")
    for name in "ab":
        put(source, f"images/{name}.nii.gz", noise(ord(name)))
        put(source, f"labels/{name}.nii.gz", truth(ord(name)).astype(np.float32))
    broken = truth(0).astype(np.float32)
    broken[0, 0, 0] = 77
    put(source, "images/c.nii", noise(3))
    put(source, "labels/c.nii", broken)
    put(source, "images/d.nii", noise(4))
    put(source, "labels/d.nii", truth(4))
    options = {"mode": "volume", "classes": ("background", "organ", "tumour")}
    config = IngestConfig(source=str(source), output=output, format={"name": "nifti", "options": options}, max_quarantined=1)
    assert ingest(config, LocalEngine(workers=0)).counts["done"] == 3
    snapshot = open_snapshot(output)
    assert [(row["image_id"], row["error_type"]) for row in snapshot.quarantined()] == [("images/c.nii", "LabelError")]
    rows = {row["image_id"]: row for record in snapshot.shards() for row in snapshot.read(record).to_pylist()}
    row = rows["images/a.nii.gz"]
    assert row["image"]["bytes"] == (source / "images/a.nii.gz").read_bytes()
    assert (row["media_type"], rows["images/d.nii"]["media_type"]) == ("application/gzip", "application/x-nifti")
    assert (row["axes"], row["shape"], row["width"], row["height"]) == ("ZYX", [3, 4, 5], 5, 4)
    assert row["spacing"] == [2.5, 1.5, 1.0]
    assert row["mask"]["path"] == "images/a.nii.gz.mask.nii.gz"
    mask, spacing, affine = decode_volume(row["mask"]["bytes"], 60)
    np.testing.assert_array_equal(mask, canonical(source / "labels/a.nii.gz"))
    assert mask.dtype == np.uint8
    assert spacing == (2.5, 1.5, 1.0)
    np.testing.assert_array_equal(affine, nibabel.as_closest_canonical(nibabel.load(source / "images/a.nii.gz")).affine)
    shown = {picture.image_id: picture for picture in pictures(snapshot, 3)}
    np.testing.assert_array_equal(shown["images/a.nii.gz"].truth, mask[1])
    assert shown["images/a.nii.gz"].image.shape == (4, 5, 3)
    with pytest.raises(InputError, match=r"has whole volumes \(images/.*, axes ZYX\).*mode: slices"):
        preprocess(PreprocessConfig(data=output, output=str(tmp_path / "small"), resize={"height": 2, "width": 2}), LocalEngine(workers=0))
    with pytest.raises(InputError, match="whole volumes"):
        index_split(snapshot, "")


def test_a_volume_of_several_files_is_one_file_of_several_channels(tmp_path: Path) -> None:
    for seed, name in enumerate(("t1", "t2", "t3", "t4")):
        put(tmp_path, f"a/{name}.nii", noise(seed))
    images = [f"<case>/t{at}" for at in (1, 2, 3, 4)]
    found = reader(tmp_path, images=images, mode="volume")
    (item,) = found.scan()
    sample = found.read(item)
    assert (sample.axes, sample.spacing, sample.meta["channels"]) == ("CZYX", (2.5, 1.5, 1.0), "t1, t2, t3, t4")
    np.testing.assert_array_equal(decode_volume(sample.image, 240)[0], [canonical(tmp_path / f"a/t{at}.nii") for at in (1, 2, 3, 4)])
    one = reader(tmp_path, images=images, mode="volume", channels=("t3",))
    (item,) = one.scan()
    assert (item.path, one.read(item).image) == ("a/t3.nii", (tmp_path / "a/t3.nii").read_bytes())
    with pytest.raises(ConfigError, match="4 channels for slices"):
        reader(tmp_path, images=images, channels=("t1", "t2", "t3", "t4"))


def test_an_item_changes_with_its_files_alone(tmp_path: Path) -> None:
    for name in "ab":
        put(tmp_path, f"images/{name}.nii", noise(0))
        put(tmp_path, f"labels/{name}.nii", truth(0))
    before = {item.image_id: item.version for item in reader(tmp_path).scan()}
    put(tmp_path, "labels/b.nii", truth(1))
    after = {item.image_id: item.version for item in reader(tmp_path).scan()}
    assert {name.partition("#")[0] for name in before if before[name] != after[name]} == {"images/b.nii"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
names_of = st.sampled_from(["background", "liver", "tumour", "ignore", "", "0", "1", "9" * 5000, "\ud800"]) | st.text(max_size=2)
values_of = st.sampled_from([0, 1, 2, 255, -1, 10**30, "0", "1", "2", [1], [1, 2], "\u0663"]) | anything
descriptions = st.fixed_dictionaries(
    {"labels": st.dictionaries(names_of, values_of | names_of, max_size=4) | anything},
    optional={
        "regions_class_order": st.lists(st.integers(-1, 4), max_size=3) | anything,
        "channel_names": st.just({"0": "CT"}) | st.dictionaries(names_of, names_of, max_size=2) | anything,
        "file_ending": st.sampled_from([".nii.gz", ".nii", ".png"]) | anything,
        "training": st.just([{"image": "./images/a.nii.gz", "label": "./labels/a.nii.gz"}]) | st.lists(anything, max_size=2) | anything,
        "name": anything,
    },
)


@pytest.fixture(scope="module")
def any_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("any")
    one_case(folder, truth(2))
    return folder


def read_or_refuse(found: NiftiReader) -> None:
    with contextlib.suppress(InputError, ConfigError):
        for item in islice(found.scan(), 40):
            with contextlib.suppress(DataFault, FileNotFoundError):
                check_sample(found.read(item), found.spec(), item.image_id)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given((descriptions | anything).map(json.dumps) | st.sampled_from(["[" * 9000, "{", ""]), st.sampled_from(["slices", "volume"]))
def test_any_description_is_read_or_refused(any_case: Path, text: str, mode: str) -> None:
    (any_case / "dataset.json").write_text(text)
    read_or_refuse(reader(any_case, mode=mode))
    (any_case / "dataset.json").unlink()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 351), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_any_header_is_read_or_refused_as_image_and_as_label(places: list[tuple[int, bytes]], is_label: bool, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one_case(Path(folder), truth(2))
        file = Path(folder) / ("labels/a.nii.gz" if is_label else "images/a.nii.gz")
        data = bytearray(gzip.decompress(file.read_bytes()))
        for at, changed in places:
            data[at : at + len(changed)] = changed
        file.write_bytes(gzip.compress(data, 1) if packed else data)
        for options in ({}, {"mode": "volume"}):
            read_or_refuse(reader(Path(folder), **options))
