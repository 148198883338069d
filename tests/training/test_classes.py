import numpy as np
import pytest

from segtasks.errors import ConfigError, InputError
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.training.classes import index_table, lookup_table, mapped_classes, model_spec


def classes(*names):
    return tuple(ClassSpec(name=name, color=(number, 0, 0)) for number, name in enumerate(names))


def test_classes_are_renamed_and_merged_in_order_of_first_appearance():
    source = classes("car", "road", "bus", "sky")
    found = mapped_classes(source, {"car": "vehicle", "bus": "vehicle", "road": "sky"})
    assert [(item.name, item.color) for item in found] == [("vehicle", (0, 0, 0)), ("sky", (3, 0, 0))]
    assert index_table(source, {"car": "vehicle", "bus": "vehicle", "road": "sky"}, found).tolist() == [0, 1, 0, 1]


def test_a_name_that_is_no_class_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean 'road'"):
        mapped_classes(classes("road"), {"raod": "x"})


def test_a_class_without_counterpart_is_refused():
    with pytest.raises(ConfigError, match=r"class_map\.bus"):
        index_table(classes("car", "bus"), {}, classes("car"))


def test_a_stored_mask_is_translated_with_its_ignore_value():
    data = DatasetSpec(name="d", classes=classes("a", "b", "c"), ignore_index=11)
    model = DatasetSpec(name="d", classes=classes("c", "ab"), ignore_index=255)
    table = lookup_table(data, {"a": "ab", "b": "ab"}, model)
    assert table[np.array([[0, 1], [2, 11]], np.uint8)].tolist() == [[1, 1], [0, 255]]
    assert table.dtype == np.uint8


def test_a_checkpoint_with_the_same_classes_gives_its_order():
    data, initial = DatasetSpec(name="d", classes=classes("b", "a")), DatasetSpec(name="i", classes=classes("a", "b"))
    assert model_spec(data, {}, initial).names == ["a", "b"]
    assert model_spec(data, {"a": "x"}, initial).names == ["b", "x"]


def test_a_data_set_without_classes_cannot_be_trained_on():
    with pytest.raises(InputError, match="no classes"):
        model_spec(DatasetSpec(name="d"), {})
