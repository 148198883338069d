"""List plug-ins, or print one's settings. Listing reads docstrings without importing, since models import torch."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from segtasks import plugins
from segtasks.cli.outcome import Outcome, table
from segtasks.cli.schema import settings
from segtasks.cli.settings import json_option


def command(kind: str) -> click.Command:
    @click.command(kind, help=f"List the {kind} that ship with segtasks, or print the settings of NAME (a dotted name reaches outside).")
    @click.argument("name", required=False)
    @json_option
    def verb(name: str | None, as_json: bool) -> Outcome:
        return listing(kind) if name is None else description(kind, name)

    return verb


def listing(kind: str) -> Outcome:
    found = [{"name": name, "about": about(f"segtasks.{kind}.{name}")} for name in plugins.names(kind)]
    return Outcome({kind: found}, table((item["name"], item["about"]) for item in found))


def description(kind: str, name: str) -> Outcome:
    module = plugins.load(kind, name)
    about = first_line(module.__doc__)
    document: dict[str, Any] = {"kind": kind, "name": name, "about": about, "schema": module.Config.model_json_schema()}
    return Outcome(document, [f"{name}: {about}", "", *options(module.Config)])


def options(model: type[BaseModel]) -> list[str]:
    rows = list(settings(model))
    if rows:
        header = ("option", "type", "default", "description")
        return table(((row.key, row.type, row.default, row.description) for row in rows), header)
    return ["no options"]


def about(module: str) -> str:
    """First line of the module's docstring."""
    return first_line(docstring(module))


def docstring(module: str) -> str:
    """The module's docstring, without running the module."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


readers = command("readers")
writers = command("writers")
losses = command("losses")
metrics = command("metrics")
