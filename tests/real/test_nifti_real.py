from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segtasks.codecs.volume import decode_volume, encode_volume, read_volume_header
from segtasks.errors import InputError, LabelError
from segtasks.readers.nifti import Config, NiftiReader, build
from segtasks.storage import open_store
from tests.real import data_folder

LIMIT = 1 << 28
BRATS = "examples/dataForExamples/brats2015TrainingData"
PAIRED = "data/test/nifti/paired"


def reader(folder: Path, **options: Any) -> NiftiReader:
    return build(Config(**options), open_store(str(folder)))


def canonical(path: Path) -> NDArray[Any]:
    """(C,) Z, Y, X by nibabel."""
    array: NDArray[Any] = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).T
    return array


@pytest.mark.parametrize(
    ("name", "count"),
    [pytest.param("brats_deepmedic", 8, marks=pytest.mark.slow), ("deepreg_nifti", 43), ("odd_datasets/datumaro/brats_dataset", 3)],
)
def test_every_volume_is_nibabels_canonical_one_and_comes_back_from_its_encoding(name: str, count: int) -> None:
    files = sorted(data_folder(name).rglob("*.nii*"))
    assert len(files) == count
    for file in files:
        data, image = file.read_bytes(), nibabel.as_closest_canonical(nibabel.load(file))
        array, spacing, affine = decode_volume(data, LIMIT)
        np.testing.assert_array_equal(array, np.asanyarray(image.dataobj).T)
        np.testing.assert_array_equal(affine, image.affine)
        assert spacing == image.header.get_zooms()[2::-1]
        assert read_volume_header(data[:8192], LIMIT).shape == array.shape[-3:]
        again, _, same = decode_volume(encode_volume(array, affine), LIMIT)
        np.testing.assert_array_equal(again, array)
        np.testing.assert_allclose(same, affine, atol=1e-5)


@pytest.mark.parametrize("modality", ["Flair", pytest.param("T1c", marks=pytest.mark.slow)])
def test_slices_of_brats_are_its_planes_within_half_a_step(modality: str) -> None:
    root = data_folder("brats_deepmedic") / BRATS
    found = reader(root, images=(f"<split>/<case>/{modality}_*",), labels="<split>/<case>/OTMultiClass", percentiles=(0, 100))
    assert found.spec().names == ["background", "class_1", "class_2", "class_3", "class_4"]
    items = list(found.scan())
    assert Counter((item.split, item.group_id) for item in items) == {
        ("train", "brats_2013_pat0005_1"): 155,
        ("validation", "brats_2013_pat0004_1"): 155,
    }
    for path in sorted({item.path for item in items}):
        mine = [item for item in items if item.path == path]
        volume, labels = canonical(root / path).astype(np.float64), canonical(root / mine[0].labels["mask"])
        samples = [found.read(item) for item in mine]
        step = (volume.max() - volume.min()) / 65535
        codes = np.stack([np.array(Image.open(io.BytesIO(sample.image))) for sample in samples])
        np.testing.assert_allclose(volume.min() + codes * step, volume, atol=0.5 * step * (1 + 1e-9), rtol=0)
        np.testing.assert_array_equal(np.stack([sample.mask for sample in samples]), labels)
        assert {sample.spacing for sample in samples} == {(1.0, 1.0)}
        assert {sample.meta["orientation"] for sample in samples} == {"LPS"}


def test_the_brain_mask_that_an_int_cast_would_empty_is_read_whole() -> None:
    root = data_folder("brats_deepmedic") / BRATS
    found = reader(root, images=("<split>/<case>/Flair_*",), labels="<split>/<case>/brainmask")
    assert found.spec().names == ["background", "foreground"]
    items = [item for item in found.scan() if item.split == "train"]
    stored = canonical(root / items[0].labels["mask"])
    assert stored.max() < 1
    assert stored.astype(int).max() == 0
    masks = np.stack([found.read(item).mask for item in items])
    np.testing.assert_array_equal(masks, stored > 0.5)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_one_hot_labels_are_the_last_channel_that_is_set(side: str) -> None:
    root = data_folder("deepreg_nifti") / PAIRED
    options: dict[str, Any] = {"images": (f"<split>/{side}_images/<case>",), "labels": f"<split>/{side}_labels/<case>"}
    found = reader(root, **options, overlap="last", percentiles=(0, 100))
    assert found.spec().names == ["background", "class_1", "class_2", "class_3"]
    items = list(found.scan())
    refusing = reader(root, **options)
    refused = overlapping = 0
    for path in sorted({item.path for item in items}):
        mine = [item for item in items if item.path == path]
        image, stored = canonical(root / path), canonical(root / mine[0].labels["mask"])
        channels = stored if stored.ndim == 4 else stored[None]
        expected = (channels * np.arange(1, len(channels) + 1)[:, None, None, None]).max(axis=0)
        samples = [found.read(item) for item in mine]
        np.testing.assert_array_equal(np.stack([sample.mask for sample in samples]), expected)
        codes = np.stack([np.array(Image.open(io.BytesIO(sample.image))) for sample in samples])
        low, high = int(image.min()), int(image.max())
        np.testing.assert_array_equal(np.rint(low + codes * ((high - low) / 65535)), image)
        overlapping += int((channels.sum(axis=0).max(axis=(1, 2)) > 1).sum())
        for item in mine:
            try:
                refusing.read(item)
            except LabelError as error:
                refused += "overlap" in str(error)
    assert refused == overlapping > 0


def test_the_labels_of_other_images_are_refused() -> None:
    root = data_folder("deepreg_nifti") / PAIRED / "train"
    found = reader(root, images=("fixed_images/<case>",), labels="moving_labels/<case>")
    item = next(iter(found.scan()))
    with pytest.raises(LabelError, match=r"does not lie on its image: label and image have 64x64x60 and 44x59x41"):
        found.read(item)


def test_a_case_in_two_endings_is_refused_and_a_plain_file_reads_as_its_gzip(tmp_path: Path) -> None:
    root = data_folder("deepreg_nifti") / "data/test/nifti"
    plain, packed = root / "unit_test/case000026.nii", root / "paired/test/fixed_images/case000026.nii.gz"
    np.testing.assert_array_equal(decode_volume(plain.read_bytes(), LIMIT)[0], decode_volume(packed.read_bytes(), LIMIT)[0])
    for file in (plain, packed):
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(InputError, match=r"case000026\.nii and case000026\.nii\.gz are both case 'case000026'"):
        list(reader(tmp_path, images=("<case>",)).scan())


def test_a_decathlon_folder_of_four_modalities_is_read_as_slices_and_whole() -> None:
    root = data_folder("odd_datasets") / "datumaro/brats_dataset"
    found = reader(root)
    items = list(found.scan())
    assert [(item.split, item.image_id) for item in items] == [
        ("train", "imagesTr/BRATS_001.nii.gz#z=0000"),
        ("train", "imagesTr/BRATS_001.nii.gz#z=0001"),
        ("test", "imagesTs/BRATS_002.nii.gz#z=0000"),
        ("test", "imagesTs/BRATS_002.nii.gz#z=0001"),
    ]
    np.testing.assert_array_equal([found.read(item).mask for item in items[:2]], canonical(root / "labelsTr/BRATS_001.nii.gz"))
    whole = reader(root, mode="volume")
    first, second = map(whole.read, whole.scan())
    assert (first.axes, first.image) == ("CZYX", (root / "imagesTr/BRATS_001.nii.gz").read_bytes())
    np.testing.assert_array_equal(first.mask, canonical(root / "labelsTr/BRATS_001.nii.gz"))
    assert second.mask is None
