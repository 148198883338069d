"""Where the work runs."""

from __future__ import annotations

from typing import Literal

from segtasks.config import Config, execution


class EngineConfig(Config):
    """Where the work runs. Nothing here changes a row."""

    name: Literal["ray", "local"] = execution("ray", description="ray: a Ray cluster; local: processes on this machine, without Ray")
    address: str | None = execution(
        None, description="Ray address, for example ray://head:10001 or auto; none: a local cluster for this run"
    )
    workers: int | None = execution(
        None, ge=0, description="worker processes; none: one a CPU (on a shared Ray cluster one CPU stays free); 0 (local only): inline"
    )
    ship_code: bool = execution(
        True, description="send this machine's segtasks along to a cluster that is attached to; no: it is installed there, and compared"
    )
    gpus_per_worker: float = execution(0.0, ge=0, description="GPUs that a Ray worker reserves")
