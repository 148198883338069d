"""The recipe: what makes an output what it is. It is written once, and an output has one recipe for ever.

Input snapshots are not part of it, so that newer inputs are appended; the input's own recipe is.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from segtasks.config import Config, validate
from segtasks.errors import CorruptError, InputError, RecipeMismatch
from segtasks.shards.digest import canonical_json, content_id
from segtasks.spec import DatasetSpec
from segtasks.storage import Store

PATH = "recipe.json"


class Recipe(Config):
    """Weights, output-affecting configuration, resolved precision and backend, and the stage's version."""

    format: int = Field(default=1, description="version of the format on disk")
    stage: str = Field(description="ingest, preprocess, infer, ...")
    version: int = Field(description="raised whenever the stage's output changes for the same configuration")
    rows: str = Field(description="schema of the rows, for example samples/1")
    config: dict[str, Any] = Field(description="output-affecting configuration, plug-ins resolved")
    inputs: dict[str, str] = Field(default_factory=dict, description="what is read: a source URL, or the recipe id of a shard set")
    resolved: dict[str, str] = Field(default_factory=dict, description="what was settled when planning: weights, precision, backend")
    spec: DatasetSpec = Field(description="what the rows mean")

    @property
    def id(self) -> str:
        """32 hex digits, equal for equal recipes."""
        return content_id(self.model_dump(mode="json"))


def read_recipe(store: Store) -> Recipe | None:
    """The recipe of the output, or None where there is none yet."""
    try:
        data = store.read(PATH)
    except FileNotFoundError:
        return None
    try:
        return validate(Recipe, json.loads(data), where=store.url_of(PATH))
    except ValueError as error:
        raise CorruptError(f"{store.url_of(PATH)} is not JSON: {error}") from error


def require_recipe(store: Store) -> Recipe:
    """The recipe, or an `InputError` that says what was looked for."""
    recipe = read_recipe(store)
    if recipe is None:
        raise InputError(f"no shard set at {store.url} (looked for {PATH}); needed: the output of segtasks ingest, preprocess, infer, ...")
    return recipe


def claim_recipe(store: Store, recipe: Recipe) -> None:
    """Make `recipe` the output's, or check that it already is. Another recipe is refused, saying what differs."""
    existing = read_recipe(store)
    if existing is None:
        if store.create(PATH, canonical_json(recipe.model_dump(mode="json"))):
            return
        existing = require_recipe(store)
    if existing.id != recipe.id:
        lines = differences(existing.model_dump(mode="json"), recipe.model_dump(mode="json"))
        raise RecipeMismatch(
            f"{store.url} was made by another recipe, and rows of two recipes are never mixed. It differs in\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nUse a new --output, or go back to the settings on the left.",
            lines,
        )


def differences(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Lines `key: theirs -> ours` for every leaf that differs."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        lines = []
        for key in sorted(theirs.keys() | ours.keys()):
            lines += differences(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
        return lines
    return [] if theirs == ours else [f"{path}: {_short(theirs)} -> {_short(ours)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
