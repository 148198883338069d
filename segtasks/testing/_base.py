"""What the checks of every kind share."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from segtasks.config import affects_output
from segtasks.spec import ClassSpec, DatasetSpec


def small_config(module: ModuleType, options: Mapping[str, Any] | None) -> Any:
    """The module's `Config` from `options`, or from its own `SMALL`, or from its defaults."""
    return module.Config(**(getattr(module, "SMALL", {}) if options is None else options))


def made_spec(classes: int, ignore_index: int = 255) -> DatasetSpec:
    """A data set's spec with `classes` classes."""
    colors = [(37 * i % 256, 91 * i % 256, 173 * i % 256) for i in range(classes)]
    return DatasetSpec(
        name="made", classes=tuple(ClassSpec(name=f"class {i}", color=color) for i, color in enumerate(colors)), ignore_index=ignore_index
    )


def check_config(config_class: type[BaseModel]) -> None:
    """`Config` is frozen, forbids unknown keys, describes every field and survives JSON: it goes into recipes and forms."""
    assert config_class.model_config.get("frozen"), f"{config_class.__module__}.Config is not frozen; derive it from segtasks.config.Config"
    assert config_class.model_config.get("extra") == "forbid", (
        f"{config_class.__module__}.Config takes unknown keys; needed: extra='forbid'"
    )
    for name, field in config_class.model_fields.items():
        assert field.description, f"{config_class.__module__}.Config.{name} has no description"
        affects_output(config_class, name)
    if all(not field.is_required() for field in config_class.model_fields.values()):
        config = config_class()
        again = config_class.model_validate_json(config.model_dump_json())
        assert again == config, f"{config_class.__module__}.Config changes on its way through JSON: {config} -> {again}"
