"""Merge the small shards of a data set."""

from __future__ import annotations

from prefect import flow

from flows._names import run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import CompactConfig


@flow(name="compact", flow_run_name=run_name(lambda config: f"compact {tail(config['output'])}"), **FLOW_OPTIONS)
def compact(config: CompactConfig) -> JSON:
    """Merge the small shards of the data set at `output`, in a new snapshot of the same rows. Does nothing where nothing is small."""
    with engines():
        return stage("compact", config)
