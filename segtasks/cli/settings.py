"""From a YAML file, options and key=value arguments to a checked configuration. Options are made from the models' own fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from pydantic import BaseModel

from segtasks.cli.schema import Setting, settings
from segtasks.config import apply_overrides, load_yaml, validate
from segtasks.engines.config import EngineConfig
from segtasks.errors import ConfigError

C = TypeVar("C", bound=BaseModel)
F = TypeVar("F", bound=Callable[..., Any])

WORDS = ("source", "format", "data", "predictions", "evaluation", "checkpoint", "init_from", "weights", "output", "limit", "where")
FLAGS = ("retry_quarantined", "dry_run")
METAVARS = {"format": "NAME", "limit": "N", "where": "KEY=VALUE"}
ENGINE_WORDS = {"engine": "name", "address": "address", "workers": "workers"}

json_option = click.option("--json", "as_json", is_flag=True, help="print the result as one JSON document")


class WithSettings(click.Command):
    """A command whose help page ends with the settings that key=value arguments and the YAML file take."""

    model: type[BaseModel]
    shown_as_options: tuple[str, ...]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [item for item in settings(self.model) if item.key not in self.shown_as_options]
        write_settings(formatter, "Settings (YAML, or key=value)", rows)


def write_settings(formatter: click.HelpFormatter, title: str, rows: Sequence[Setting]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl([(f"{row.key}={row.default}", f"{row.description} ({row.type})") for row in rows], col_max=44)


def options(model: type[BaseModel]) -> Callable[[F], F]:
    """Options for the words that `model` has, `-c`, overrides, `--engine` and its kin, `--dry-run` and `--json`."""
    fields = model.model_fields
    made: list[Callable[[Any], Any]] = [
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
        click.option("-c", "--config", "file", metavar="FILE", help="YAML file with settings"),
    ]
    for word in WORDS:
        if word in fields:
            made.append(
                click.option(
                    f"--{word.replace('_', '-')}",
                    word,
                    metavar=METAVARS.get(word, "URL"),
                    type=int if word == "limit" else str,
                    multiple=word == "where",
                    help=fields[word].description,
                )
            )
    if "engine" in fields:
        made += engine_options()
    for flag in FLAGS:
        if flag in fields:
            made.append(click.option(f"--{flag.replace('_', '-')}", is_flag=True, default=None, help=fields[flag].description))
    made.append(json_option)

    def decorate(function: F) -> F:
        for decorator in reversed(made):
            function = decorator(function)
        return function

    return decorate


def engine_options() -> list[Callable[[Any], Any]]:
    described = {word: EngineConfig.model_fields[field].description for word, field in ENGINE_WORDS.items()}
    return [
        click.option("--engine", type=click.Choice(["ray", "local"]), help=described["engine"]),
        click.option("--address", metavar="ADDRESS", help=described["address"]),
        click.option("--workers", type=int, metavar="N", help=described["workers"]),
    ]


def load(model: type[C], file: str | None, given: Mapping[str, Any], overrides: Sequence[str]) -> C:
    """File, then options, then key=value: the later one counts. Raises `ConfigError` with one line a problem."""
    data = load_yaml(file) if file else {}
    for word, value in given.items():
        if value is None or value == ():
            continue
        if word in ENGINE_WORDS:
            data["engine"] = {**_mapping(data.get("engine"), "engine"), ENGINE_WORDS[word]: value}
        else:
            data[word] = parse_where(value) if word == "where" else value
    return validate(model, apply_overrides(data, overrides))


def parse_where(pairs: Sequence[str]) -> dict[str, str | list[str]]:
    """`("split=val", "city=a", "city=b")` -> `{"split": "val", "city": ["a", "b"]}`."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--where {pair!r} is not key=value; needed: for example --where split=val")
        found.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {value!r}; needed: a mapping, for example {{name: local}}")
    return value
