"""What an engine is: it maps a stateful worker over items, and runs a function on a group of ranks. It decides nothing
about completeness: an item that fails comes back as `Failed`, and the stage looks at what the store holds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

JSON = dict[str, Any]
Worker = Callable[[JSON], JSON]
WorkerFactory = Callable[[], Worker]  # picklable; called once in each worker process
Report = Callable[[JSON], None]  # events from rank 0 to the driver: {"event": "epoch", ...}


@dataclass(frozen=True)
class Done:
    """The worker returned `result` for `item`."""

    item: JSON
    result: JSON


@dataclass(frozen=True)
class Failed:
    """The worker did not return. `fatal`: going on makes no sense (bad configuration, access denied)."""

    item: JSON
    how: Literal["raised", "died", "timeout", "memory"]
    error_type: str
    error: str
    fatal: bool = False
    exit_code: int = 1
    traceback: str = ""


@dataclass(frozen=True)
class Rank:
    """One member of a training group. With `world > 1`, torch.distributed's default group is already initialised."""

    rank: int
    world: int
    report: Report
    device: str = "cpu"


class Engine(Protocol):
    """`close` frees processes and actors; both methods may be called several times before it."""

    name: str

    @property
    def workers(self) -> int:
        """Worker processes that `map` uses, and ranks that `train` is best given; 0 means inline."""
        ...

    def map(self, make_worker: WorkerFactory, items: Sequence[JSON]) -> Generator[Done | Failed, None, None]:
        """Yield one outcome an item, in order of completion. Closing the generator stops the workers."""
        ...

    def train(self, function: Callable[[Rank], JSON], world: int, report: Report) -> JSON:
        """Run `function` on `world` ranks and return rank 0's result; its exception is raised here."""
        ...

    def close(self) -> None: ...
