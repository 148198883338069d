"""Engines: `local` (processes on this machine) and `ray`. Only `segtasks.engines.ray` imports ray."""

from __future__ import annotations

from segtasks.engines._base import JSON, Done, Engine, Failed, Rank, Report, Worker, WorkerFactory
from segtasks.engines._worker import available_cpus, device_for
from segtasks.engines.config import EngineConfig
from segtasks.errors import ConfigError, MissingExtra

__all__ = [
    "JSON",
    "Done",
    "Engine",
    "EngineConfig",
    "Failed",
    "Rank",
    "Report",
    "Worker",
    "WorkerFactory",
    "available_cpus",
    "device_for",
    "open_engine",
]


def open_engine(config: EngineConfig) -> Engine:
    """Make the engine that the configuration names. Close it when done: it holds processes or actors."""
    if config.name == "local":
        from segtasks.engines.local import LocalEngine

        if config.address is not None:
            raise ConfigError(f"engine local has no address (found {config.address!r}); use --engine ray with --address")
        return LocalEngine(config.workers)
    try:
        from segtasks.engines.ray import RayEngine
    except ImportError as error:
        raise MissingExtra(f"engine ray needs Ray ({error}): pip install 'ray[default,train]', or use --engine local") from error
    return RayEngine(config)
