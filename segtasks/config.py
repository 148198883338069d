"""The base of every configuration: frozen pydantic models whose fields affect the *output* (default) or only the *execution*.

What affects the output goes into the recipe, and a shard set has one recipe for ever. Mark a field with `execution(...)`
only if a different value gives the same rows. Plug-ins are named as `{name, options}` and resolved by `segtasks.plugins`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema

from segtasks.errors import ConfigError, did_you_mean
from segtasks.redact import redacted

C = TypeVar("C", bound=BaseModel)


class Config(BaseModel):
    """Frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def execution(default: Any = ..., *, description: str, **constraints: Any) -> Any:
    """A field that changes how the work runs, never which rows come out (engine, workers, batch size of inference)."""
    return Field(default, description=description, json_schema_extra={"affects": "execution"}, **constraints)


def affects_output(model: type[BaseModel], field: str) -> bool:
    """True unless the field was declared with `execution(...)`."""
    extra = model.model_fields[field].json_schema_extra
    return not (isinstance(extra, dict) and extra.get("affects") == "execution")


def output_part(config: BaseModel) -> dict[str, Any]:
    """The output-affecting fields as JSON values, nested configurations included: what goes into a recipe."""
    part: dict[str, Any] = {}
    for name in type(config).model_fields:
        if not affects_output(type(config), name):
            continue
        value = getattr(config, name)
        part[name] = output_part(value) if isinstance(value, BaseModel) else _plain(value)
    return part


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return output_part(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class Plugin(Config):
    """A plug-in by name: `unet`, or a dotted path such as `acme.nets.tiny`. A bare string is short for `{name: ...}`."""

    name: str = Field(description="module name inside the package, or a dotted path outside it")
    options: dict[str, Any] = Field(default_factory=dict, description="the plug-in's own options; see its Config")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "string", "title": "name"}]}  # Prefect checks parameters against this


def load_yaml(path: str) -> dict[str, Any]:
    """Read a YAML mapping; a missing file, a syntax error or another kind of document is a `ConfigError` with the place."""
    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path} (working folder: {os.getcwd()})") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}; needed: a mapping of settings")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set dotted keys: `train.epochs=3`. Values are YAML, so `true`, `[1, 2]` and `{a: b}` mean what they mean there."""
    result: dict[str, Any] = _copy(data)
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is not an override; needed: key=value, for example epochs=3")
        try:
            value = yaml.safe_load(raw) if raw else None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)  # not the error itself: it quotes the value, which may be a secret
            place = f" (character {mark.column + 1})" if mark else ""
            raise ConfigError(f"the value of {key!r} is not valid YAML{place}; quote what has a meaning there") from None
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            child = node.get(parent)
            if isinstance(child, str):  # a plug-in given by its bare name
                child = {"name": child}
            if not isinstance(child, dict):
                child = {}
            node[parent] = child
            node = child
        node[last] = value
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def validate(model: type[C], data: Mapping[str, Any], *, where: str = "") -> C:
    """Build `model`, turning pydantic's report into one `ConfigError` with a line a problem and a suggestion for typos."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError(explain(error, model, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """One line a problem: `epoch: unknown setting. Did you mean 'epochs'?`"""
    lines = []
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        name = ".".join(([where] if where else []) + path) or "configuration"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name}: unknown setting.{did_you_mean(path[-1], _fields_at(model, path[:-1]))}")
        elif problem["type"] == "missing":
            lines.append(f"{name}: missing; {_description_at(model, path)}")
        elif not path:  # settings that contradict each other: what was found would be the whole configuration
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
        else:
            found = "***" if "storage" in path else repr(redacted(problem["input"]))  # it may be a secret in the wrong place
            lines.append(f"{name}: {problem['msg']} (found: {found})")
    return "\n".join(lines)


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for part in path:
        if part.isdigit():  # a place in a list of configurations
            continue
        field = current.model_fields.get(part) if current else None
        current = _nested_model(field.annotation) if field else None
    return current


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _nested_model(argument)
        if found:
            return found
    return None


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    found = _model_at(model, path)
    return list(found.model_fields) if found else []


def _description_at(model: type[BaseModel], path: Sequence[str]) -> str:
    found = _model_at(model, path[:-1])
    field = found.model_fields.get(path[-1]) if found and path else None
    return f"needed: {field.description}" if field and field.description else "it is required"
