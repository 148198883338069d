"""What every stage's worker does with a unit: read its inputs, make their rows in order (or copy those that are there), commit one shard.

A unit may come back in parts (`part`: a range of its inputs), to find the image that kills its worker; then nothing is
written. Inputs that were found to do so come as `refused`, and are quarantined without being looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from segtasks.engines import JSON
from segtasks.engines._watch import Limits, Watch
from segtasks.errors import DataFault, PoisonError
from segtasks.shards.plan import Plan, Unit
from segtasks.shards.writer import ShardWriter, commit, empty, quarantined
from segtasks.stages._copy import Copier
from segtasks.storage import Store

I = TypeVar("I")  # noqa: E741 - an input: an item of a manifest, or a row of a parent shard


def work_item(unit: Unit, *, part: tuple[int, int] | None = None, refused: Mapping[int, str] | None = None) -> JSON:
    """What travels to a worker."""
    return {
        "unit": unit.as_json(),
        "part": list(part) if part else None,
        "refused": {str(place): why for place, why in (refused or {}).items()},
    }


class ShardWorker(ABC, Generic[I]):
    """Subclasses say what the inputs of a unit are and how rows are made of them."""

    def __init__(self, rows_schema: str, store: Store, plan: Plan, limits: Limits) -> None:
        self._rows_schema, self._store, self._plan, self._limits = rows_schema, store, plan, limits
        self._copier = Copier(store)

    @abstractmethod
    def inputs(self, unit: Unit) -> Sequence[I]:
        """The unit's inputs in order, `unit.inputs` of them."""

    @abstractmethod
    def make_rows(self, inputs: Iterable[I]) -> Iterator[Sequence[Mapping[str, Any]]]:
        """The rows of each input, in order: none, one or many; a `DataFault` is one quarantined row."""

    @abstractmethod
    def origin(self, one: I) -> dict[str, Any]:
        """What the row of an input has where nothing could be made of it: its ids, and where it came from."""

    def refuse(self, one: I, fault: DataFault) -> dict[str, Any]:
        """The quarantined row of an input."""
        return quarantined(self.origin(one), fault)

    def begin(self, unit: Unit) -> None:
        """Called before a unit's rows are made."""

    def summary(self) -> Mapping[str, Any] | None:
        """Counts of the unit that add up over shards."""
        return None

    def __call__(self, item: JSON) -> JSON:
        unit = Unit.from_json(item["unit"])
        copied = self._copier.rows_of(unit)
        inputs = self.inputs(unit) if len(copied) < unit.inputs else cast(Sequence[I], [None] * unit.inputs)
        if len(inputs) != unit.inputs:
            raise RuntimeError(f"unit {unit.key}: {len(inputs)} inputs were read, the plan put in {unit.inputs}")
        refused = {int(place): why for place, why in item["refused"].items()}
        self.begin(unit)
        with Watch(self._limits) as beat:
            if item["part"] is not None:
                for _ in self.make_rows([inputs[place] for place in range(*item["part"]) if place not in copied]):
                    beat()
                return {}
            writer = ShardWriter(self._rows_schema, self._plan.recipe, self._plan.number, unit)
            made = iter(self.make_rows([one for place, one in enumerate(inputs) if place not in refused and place not in copied]))
            for place, one in enumerate(inputs):
                if place in copied:
                    writer.extend(copied[place])
                else:
                    rows = [self.refuse(one, PoisonError(refused[place]))] if place in refused else next(made)
                    writer.extend(rows or [empty(self.origin(one))])
                beat()
            data, record = writer.finish(self.summary())
        return commit(self._store, data, record).as_json()
