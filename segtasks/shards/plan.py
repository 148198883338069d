"""The plan: what is to be made, cut into units before any work starts, so that a source that grows moves no name.

Written in this order: the lists, named by their content; then `plans/<number>/plan.json`, create-only: the claim. Whoever
finds the number taken joins the plan that has it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import Field

from segtasks.config import Config, validate
from segtasks.errors import CorruptError
from segtasks.refs import Ref
from segtasks.shards.digest import add_digests, canonical_json, content_id
from segtasks.shards.tables import read_table, write_table
from segtasks.storage import Store

LISTS = "plans/lists"
_UNITS = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("inputs", pa.int64()),
        ("bytes", pa.int64()),
        ("ids", pa.string()),
        ("parent_shard", pa.string()),
        ("selected", pa.list_(pa.int32())),
        ("items", pa.string()),
        ("first_item", pa.int64()),
        ("copies", pa.string()),
        ("retried", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Unit:
    """One shard to be made. Its inputs are `selected` rows of `parent_shard` (None: a whole one), or items of a manifest."""

    key: str
    split: str
    inputs: int
    bytes: int
    ids: str
    parent_shard: str = ""
    selected: tuple[int, ...] | None = None
    items: str = ""  # manifest list that holds this unit's items, `inputs` of them from `first_item` on
    first_item: int = 0
    copies: str = ""  # list of rows that are there already in another shard of this output, and are copied
    retried: bool = False  # its inputs were refused before, and are tried again

    @property
    def path(self) -> str:
        return f"shards/{folder_of(self.split)}/part-{self.key}.parquet"

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _UNITS.names}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        selected = data.get("selected")
        return cls(**{**data, "split": sys.intern(data["split"]), "selected": None if selected is None else tuple(selected)})


def folder_of(split: str) -> str:
    """A split's folder name; rows without one are under `all`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", split).lstrip(".") or "all"


def unit_key(recipe_id: str, content: Any) -> str:
    """Names a shard by its recipe and the content of its inputs, and so the same on every machine and every try."""
    return content_id([recipe_id, content])


class Plan(Config):
    """`plans/<number>/plan.json`."""

    format: int = 1
    number: int = Field(ge=1)
    kind: str = Field(default="", description="compact: rows only move to other shards, so that any stage's run can finish it")
    recipe: str
    config: dict[str, Any] = Field(description="the whole resolved configuration, execution settings included")
    input: Ref | None = Field(default=None, description="the shard set that is read, with its snapshot")
    source: str | None = Field(default=None, description="the source that was listed")
    units: tuple[str, ...] = Field(description="lists of units")
    unit_count: int
    inputs: int = Field(description="ids that come in, over all units")
    ids: str = Field(description="digest of those ids")
    deletions: str | None = Field(default=None, description="list of rows that the snapshot drops from older shards")
    base_snapshot: int | None = Field(default=None, description="snapshot that this plan adds to")
    changes: dict[str, int] = Field(
        default_factory=dict, description="images by what the plan does with them: new, changed, retried, dropped"
    )
    created_at: str
    segtasks: str


def plan_path(number: int) -> str:
    return f"plans/{number:06d}/plan.json"


def write_items(store: Store, table: pa.Table) -> str:
    """Write a manifest list (one row an input object); small row groups, since workers read their own part."""
    return write_table(store, LISTS, table, row_group=4096)


def write_units(store: Store, units: Sequence[Unit], chunk: int = 100_000) -> tuple[str, ...]:
    names = []
    for start in range(0, len(units), chunk):
        part = units[start : start + chunk]
        columns = [pa.array([getattr(unit, one.name) for unit in part], one.type) for one in _UNITS]
        names.append(write_table(store, LISTS, pa.Table.from_arrays(columns, schema=_UNITS)))
    return tuple(names)


def read_units(store: Store, plan: Plan) -> Iterator[Unit]:
    """The plan's units, in plan order."""
    for name in plan.units:
        for rows in read_table(store, LISTS, name).to_batches(max_chunksize=4096):  # the others are not Python objects yet
            for row in rows.to_pylist():
                yield Unit.from_json(row)


def totals(units: Sequence[Unit]) -> tuple[int, str]:
    """Number of inputs and their digest over all units."""
    return sum(unit.inputs for unit in units), add_digests(unit.ids for unit in units)


def latest_plan(store: Store) -> Plan | None:
    """The plan with the highest number, or None."""
    numbers = [int(match[1]) for entry in store.list("plans") if (match := re.fullmatch(r"plans/([0-9]{6,})/plan\.json", entry.path))]
    return read_plan(store, max(numbers)) if numbers else None


def read_plan(store: Store, number: int) -> Plan:
    try:
        return validate(Plan, json.loads(store.read(plan_path(number))), where=store.url_of(plan_path(number)))
    except FileNotFoundError as error:
        raise CorruptError(f"{store.url_of(plan_path(number))} is missing, though a snapshot names it") from error
    except ValueError as error:
        raise CorruptError(f"{store.url_of(plan_path(number))} is not JSON: {error}") from error


def claim_plan(store: Store, plan: Plan) -> Plan:
    """Make `plan` the owner of its number, or return the plan that already is."""
    if store.create(plan_path(plan.number), canonical_json(plan.model_dump(mode="json"))):
        return plan
    return read_plan(store, plan.number)
