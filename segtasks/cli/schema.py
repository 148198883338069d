"""The settings of a pydantic model as rows of text, for help pages: key, type, default, description."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from segtasks.config import Plugin, affects_output


@dataclass(frozen=True)
class Setting:
    key: str
    type: str
    default: str  # as in YAML; "required" where there is none
    description: str
    affects: str  # output or execution


def settings(model: type[BaseModel], prefix: str = "", affects: str = "output") -> Iterator[Setting]:
    """Every setting, those of nested configurations with dotted keys. What lies under an execution field is execution too."""
    for name, field in model.model_fields.items():
        side = affects if affects_output(model, name) else "execution"
        nested = nested_model(field)
        if nested is not None:
            yield from settings(nested, f"{prefix}{name}.", side)
        else:
            yield Setting(prefix + name, type_text(field.annotation), default_text(field), field.description or "", side)


def nested_model(field: FieldInfo) -> type[BaseModel] | None:
    """The configuration that the field always holds; plug-ins and optional ones are one setting."""
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, Plugin) and not field.is_required():
        return kind
    return None


def type_text(kind: Any) -> str:
    """`int | None` -> `int or none`, `Literal["a", "b"]` -> `a|b`, `tuple[int, int]` -> `[int, int]`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "none"
    if kind is Any:
        return "any"
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(item) for item in arguments)
    if origin in (tuple, list):
        return f"[{', '.join('...' if item is Ellipsis else type_text(item) for item in arguments)}]"
    if origin is dict:
        return f"{{{type_text(arguments[0])}: {type_text(arguments[1])}}}"
    if isinstance(kind, type) and issubclass(kind, Plugin):
        return "name or {name, options}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"{{{', '.join(kind.model_fields)}}}"
    name = str(kind.__name__)
    return {"str": "text", "float": "number", "bool": "true|false"}.get(name, name)


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Plugin):
        return value.name
    return value if isinstance(value, str) else json.dumps(value, default=str).replace("null", "none")
