"""Workers and rank functions for the engine tests: in a module of their own, so that other processes can import them."""

from __future__ import annotations

import os
import threading
from typing import Any

from segtasks.engines import Rank
from segtasks.errors import ConfigError, StorageError


class Squares:
    """Counts its own calls; does what the item says."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        match item.get("do"):
            case "abort":
                os.abort()
            case "wait":
                threading.Event().wait(0.2)
            case "raise":
                raise ValueError("four")
            case "weather":
                raise StorageError("rain")
            case "mistake":
                raise ConfigError("mend me")
        return {"square": item["n"] ** 2, "calls": self.calls, "process": os.getpid()}


class NeverStarts:
    def __init__(self) -> None:
        raise ConfigError("no such checkpoint")

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return item


def sum_of_ranks(rank: Rank) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    total = torch.tensor([float(rank.rank)])
    if rank.world > 1:
        dist.all_reduce(total)
    rank.report({"event": "hello", "rank": rank.rank})
    return {"sum": float(total), "rank": rank.rank}


def rank_1_refuses(rank: Rank) -> dict[str, Any]:
    if rank.rank == 1:
        raise ConfigError("rank 1 cannot")
    return sum_of_ranks(rank)
