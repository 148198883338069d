"""What `dataset.yaml` may say about a folder of images, and the spec that follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from segtasks.config import Config, validate
from segtasks.errors import ConfigError, InputError, did_you_mean
from segtasks.readers import _yaml
from segtasks.spec import Byte, ClassSpec, DatasetSpec, LabelEncoding

Color = tuple[Byte, Byte, Byte]
Value = Annotated[int, Field(ge=-(1 << 31), lt=1 << 32)]  # that a mask may store


class Named(Config):
    """A class with a colour of its own."""

    name: str = Field(min_length=1, description="class name")
    color: Color | None = Field(default=None, description="RGB, 0..255")


class Description(Config):
    """The contents of `dataset.yaml`."""

    name: str = Field(default="", description="the data set's name; none: the folder's")
    classes: tuple[Named, ...] = Field(min_length=1, description="names, or {name, color}, in index order")
    palette: tuple[Color, ...] = Field(default=(), description="RGB by index, for classes that do not say their colour")
    ignore: tuple[Value | Color, ...] = Field(default=(255,), description="mask values (or colours) that do not count")
    value_map: dict[Value, str | int] = Field(
        default_factory=dict, description="mask value -> class name or index; none: the value is the index"
    )
    encoding: Literal["auto", "index", "color"] = Field(
        default="auto", description="color: masks are in the classes' colours; auto: looks at one mask"
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, (list, tuple)) else value

    @field_validator("ignore", mode="before")
    @classmethod
    def _one_value_alone(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, int) else value


def parse(text: bytes, where: str) -> Description:
    """`InputError` for broken YAML; `ConfigError` with a line a problem for unknown or wrong settings."""
    data = _yaml.load(text, where)
    if not isinstance(data, Mapping):
        raise InputError(f"{where} holds a {type(data).__name__}; needed: a mapping with at least classes")
    return validate(Description, data, where=where)


def spec_of(description: Description, name: str, *, color_masks: bool, where: str = "dataset.yaml") -> DatasetSpec:
    """The spec, with the encoding that maps mask values or colours onto it."""
    classes = tuple(ClassSpec(name=item.name, color=item.color or _color(description, at)) for at, item in enumerate(description.classes))
    names = [item.name for item in classes]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"dataset.yaml: class names are not unique: {sorted(name for name, times in Counter(names).items() if times > 1)}"
        )
    if len(names) > 65535:
        raise ConfigError(f"dataset.yaml: there are {len(names)} classes; needed: 65535 at most")
    ignore_index = 255 if len(classes) <= 255 else 65535
    spec = DatasetSpec(name=description.name or name, classes=classes, ignore_index=ignore_index)
    if color_masks:
        encoding = _by_color(description, spec)
    elif description.value_map or description.ignore not in ((), (ignore_index,)):
        encoding = _by_value(description, spec)
    else:
        encoding = LabelEncoding()
    return spec.model_copy(update={"label_encoding": encoding})


def voc_color(index: int) -> Color:
    """The PASCAL VOC colour map (bits of the index spread over the channels): 0 is black, neighbours differ."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return color[0], color[1], color[2]


def _color(description: Description, index: int) -> Color:
    return description.palette[index] if index < len(description.palette) else voc_color(index)


def _by_color(description: Description, spec: DatasetSpec) -> LabelEncoding:
    unnamed = [item.name for at, item in enumerate(description.classes) if item.color is None and at >= len(description.palette)]
    if unnamed:
        raise InputError(f"the masks are in colour, and dataset.yaml gives no colour for {unnamed}; needed: a colour for every class")
    table: dict[int, int] = {}
    for index, item in enumerate(spec.classes):
        table[_packed(item.color)] = index
    if len(table) < spec.num_classes:
        raise InputError("dataset.yaml gives two classes the same colour, so that the masks do not say which is meant")
    for color in description.ignore:
        if not isinstance(color, int):
            table[_packed(color)] = spec.ignore_index
    return LabelEncoding(kind="color", table=tuple(sorted(table.items())))


def _by_value(description: Description, spec: DatasetSpec) -> LabelEncoding:
    table: dict[int, int] = {}
    for value, target in description.value_map.items():
        table[value] = _index_of(target, spec)
    if not description.value_map:
        table = {index: index for index in range(spec.num_classes)}
    for ignored in description.ignore:
        if not isinstance(ignored, int):
            continue
        if ignored in table and "ignore" not in description.model_fields_set:
            continue  # 255 is the ignore value by custom only: the value map knows better
        if ignored in table:
            raise ConfigError(f"dataset.yaml: {ignored} is both ignored and class {spec.names[table[ignored]]!r}; say which in value_map")
        table[ignored] = spec.ignore_index
    return LabelEncoding(kind="value", table=tuple(sorted(table.items())))


def _index_of(target: str | int, spec: DatasetSpec) -> int:
    if isinstance(target, str):
        if target not in spec.names:
            raise ConfigError(f"dataset.yaml: value_map names class {target!r}, which is not in classes.{did_you_mean(target, spec.names)}")
        return spec.names.index(target)
    if not 0 <= target < spec.num_classes:
        raise ConfigError(f"dataset.yaml: value_map names index {target}; there are {spec.num_classes} classes")
    return target


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
