"""What both engines do inside a worker process: run one item, and turn an exception into plain values."""

from __future__ import annotations

import os
import traceback
from typing import Any, Literal

from segtasks.engines._base import JSON, Failed
from segtasks.engines._watch import OUT_OF_MEMORY, TIMED_OUT
from segtasks.errors import SegtasksError


def failure(item: JSON, error: BaseException) -> Failed:
    """A `Failed` for an exception. Errors that a user must mend (exit code 2) are fatal: no other item would fare better."""
    known = isinstance(error, SegtasksError)
    exit_code = error.exit_code if isinstance(error, SegtasksError) else 1
    return Failed(
        item=item,
        how="memory" if isinstance(error, MemoryError) else "raised",
        error_type=type(error).__name__,
        error=str(error),
        fatal=exit_code == 2,
        exit_code=exit_code,
        traceback="" if known else "".join(traceback.format_exception(error)),
    )


def how_it_died(exit_code: int | None) -> Literal["died", "timeout", "memory"]:
    """What the exit code of a worker process says: its own watch ends it with a code of its own."""
    return "timeout" if exit_code == TIMED_OUT else "memory" if exit_code == OUT_OF_MEMORY else "died"


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_for(rank: int) -> str:
    """`cuda:n` for the rank's GPU (Ray and we show each process the GPUs that are its own), otherwise `cpu`."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{rank % torch.cuda.device_count()}"


def one_line(error: Any) -> str:
    return " ".join(str(error).split())
