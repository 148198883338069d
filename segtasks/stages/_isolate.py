"""Find the images that end their worker: halve the unit, give each half to a worker that may die, and go on with the halves
whose worker did. A single image is refused when it did so twice, alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from segtasks.engines import Engine, Failed, WorkerFactory
from segtasks.errors import error_named
from segtasks.shards.plan import Unit
from segtasks.stages._shard import work_item

confirmations = 2
_WHY = {
    "died": "its worker process died",
    "timeout": "its worker gave no answer within the time limit",
    "memory": "its worker went over the memory limit",
}


def find_poison(engine: Engine, make_worker: WorkerFactory, suspects: Sequence[Unit]) -> dict[str, dict[int, str]]:
    """By unit key: the places of the inputs to refuse, and why. A unit whose halves all pass has none."""
    units = {unit.key: unit for unit in suspects}
    refused: dict[str, dict[int, str]] = {unit.key: {} for unit in suspects}
    ranges = [part for unit in suspects for part in _halves(unit.key, 0, unit.inputs)]
    strikes: Counter[tuple[str, int]] = Counter()
    while ranges:
        items = [work_item(units[key], part=(start, stop)) for key, start, stop in ranges]
        ranges = []
        with closing(engine.map(make_worker, items)) as outcomes:
            for outcome in outcomes:
                if not isinstance(outcome, Failed):
                    continue
                if outcome.fatal:
                    raise error_named(outcome.error_type, outcome.error)
                key, (start, stop) = outcome.item["unit"]["key"], outcome.item["part"]
                if outcome.how == "raised":
                    continue  # weather, or our own fault: the whole unit is tried again and says so
                if stop - start > 1:
                    ranges += _halves(key, start, stop)
                    continue
                strikes[key, start] += 1
                if strikes[key, start] < confirmations:
                    ranges.append((key, start, stop))
                else:
                    refused[key][start] = f"{_WHY[outcome.how]}, {confirmations} times of {confirmations} with this image alone"
    return refused


def _halves(key: str, start: int, stop: int) -> list[tuple[str, int, int]]:
    if stop - start == 1:
        return [(key, start, stop)]
    middle = (start + stop) // 2
    return [(key, start, middle), (key, middle, stop)]
