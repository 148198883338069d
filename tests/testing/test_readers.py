"""The contract checks find what they are for: each is shown a reader that breaks it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from segtasks.codecs.image import encode_png
from segtasks.errors import LabelError
from segtasks.readers import folder
from segtasks.readers._base import Instance
from segtasks.storage import open_store
from segtasks.testing.readers import check_reader


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path))
    for name in ("a", "b"):
        store.create(f"images/train/{name}.png", encode_png(np.zeros((4, 6, 3), np.uint8)))
    return store


def module(reader_class):
    """A plug-in module around a reader class that derives from the folder reader."""
    return SimpleNamespace(Config=folder.Config, build=lambda config, source, spec=None: reader_class(config, source, spec))


class Changed(folder.FolderReader):
    """Changes each item, and each sample, of the folder reader."""

    item: ClassVar[dict] = {}
    sample: ClassVar[dict] = {}

    def scan(self):
        return (dataclasses.replace(item, **self.item) for item in super().scan())

    def read(self, item):
        return dataclasses.replace(super().read(item), **self.sample)


def changed(**parts):
    return type("Broken", (Changed,), parts)


class ReadsWhileScanning(folder.FolderReader):
    def scan(self):
        for item in super().scan():
            self._source.read(item.path)
            yield item


class ListsOtherwise(folder.FolderReader):
    turn = 0

    def scan(self):
        type(self).turn += 1
        return iter(sorted(super().scan(), key=lambda item: item.image_id, reverse=self.turn % 2 == 0))


class ForgetsTheSpec(folder.FolderReader):
    def __init__(self, config, source, spec=None):
        super().__init__(config, source, None if spec is None else spec.model_copy(update={"name": "another"}))


class Refuses(folder.FolderReader):
    def read(self, item):
        if item.image_id.endswith("b.png"):
            raise LabelError("no label")
        return super().read(item)


MASK = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("reader_class", "message"),
    [
        (changed(item={"image_id": "same"}), "not unique"),
        (changed(item={"path": "/data/a.png"}), "not a POSIX path"),
        (changed(item={"labels": {"mask": "..\\a.png"}}), "not a POSIX path"),
        (changed(item={"labels": {"mask": "a/../b.png"}}), "not a POSIX path"),
        (changed(item={"size": 0}), "size 0"),
        (changed(item={"version": ""}), "no version"),
        (changed(sample={"image": b"no image"}), "no image"),
        (changed(sample={"mask": MASK}), "no classes"),
        (changed(sample={"meta": {"camera": 3}}), "needed: a string"),
        (changed(sample={"instances": (Instance(0, (0, 0, 1, 1), 1.0, b"x"),)}), "category 0"),
        (ReadsWhileScanning, "whole images"),
        (ListsOtherwise, "lists otherwise"),
        (ForgetsTheSpec, "has another one"),
    ],
)
def test_a_reader_that_breaks_the_contract_is_found(store, reader_class, message):
    with pytest.raises(AssertionError, match=message):
        check_reader(module(reader_class), store)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.T, r"the mask is \(6, 4\) and the image as displayed is \(4, 6\)"),
        (MASK + 9, r"holds \[9\]"),
        (MASK.astype(np.int64), "int64"),
    ],
)
def test_a_mask_that_does_not_fit_is_found(store, mask, message):
    store.create("dataset.yaml", b"classes: [road, sky]\n")
    with pytest.raises(AssertionError, match=message):
        check_reader(module(changed(sample={"mask": mask})), store)


def test_faults_are_expected_where_they_are_announced_and_nowhere_else(store):
    check_reader(module(Refuses), store, faulty=["images/train/b.png"])
    with pytest.raises(LabelError):
        check_reader(module(Refuses), store)
    with pytest.raises(AssertionError, match="read without a DataFault"):
        check_reader(folder, store, faulty=["images/train/b.png"])
