from __future__ import annotations

import numpy as np
import pytest

from segtasks.errors import InputError
from segtasks.readers import ade20k
from segtasks.storage import open_store
from tests.real import data_folder


@pytest.mark.parametrize(("release", "classes"), [("2017", {255}), ("2020", {12, 20, 255})])
def test_the_full_release_is_read_in_the_classes_of_the_challenge(release: str, classes: set[int]) -> None:
    root = data_folder("odd_datasets") / f"datumaro/ade20k{release}_dataset"
    reader = ade20k.build(ade20k.Config(), open_store(str(root / "dataset")))
    items = list(reader.scan())
    assert [(item.image_id, item.split) for item in items] == [("training/street/1.jpg", "train"), ("validation/2.jpg", "val")]
    samples = [reader.read(item) for item in items]
    assert [set(np.unique(sample.mask).tolist()) for sample in samples] == [classes, classes]  # type: ignore[arg-type]
    assert [dict(sample.meta) for sample in samples] == [{"scene": "street"}, {}]
    assert [reader.spec().names[index] for index in (12, 20)] == ["person", "car"]  # as their JSON names codes 1831 and 401
    with pytest.raises(InputError, match=r"has several data sets: dataset, dataset_with_meta_file; make one of them the source"):
        list(ade20k.build(ade20k.Config(), open_store(str(root))).scan())


def test_other_layouts_are_refused() -> None:
    for name in ("cityscapes", "camvid", "odd_datasets/torchgeo/landcoverai"):
        with pytest.raises(InputError, match=r"no ADE20K data at"):
            list(ade20k.build(ade20k.Config(), open_store(str(data_folder(name)))).scan())
