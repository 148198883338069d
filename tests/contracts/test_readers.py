"""Every reader that ships is shown on a small data set of its format, made in `worlds`."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from segtasks import plugins
from segtasks.storage import open_store
from segtasks.testing.readers import check_reader

READERS = plugins.names("readers")


def world_of(name: str) -> ModuleType:
    return importlib.import_module(f"tests.contracts.worlds.{name}")


@pytest.mark.parametrize("name", READERS)
def test_every_reader_keeps_the_contract(name, tmp_path):
    store, world = open_store(str(tmp_path)), world_of(name)
    world.write(store)
    check_reader(plugins.load("readers", name), store, getattr(world, "options", None))


@pytest.mark.parametrize("name", READERS)
def test_an_image_with_spoilt_truth_is_refused_by_read_alone(name, tmp_path):
    store, world = open_store(str(tmp_path)), world_of(name)
    world.write(store)
    faulty = world.break_one(store)
    check_reader(plugins.load("readers", name), store, getattr(world, "options", None), faulty=[faulty])
