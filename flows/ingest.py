"""Read a data set in its own layout into shards of samples."""

from __future__ import annotations

from prefect import flow

from flows._names import plugin_name, run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import IngestConfig


@flow(
    name="ingest",
    flow_run_name=run_name(lambda config: f"ingest {plugin_name(config['format'])} {tail(config['source'])} into {tail(config['output'])}"),
    **FLOW_OPTIONS,
)
def ingest(config: IngestConfig) -> JSON:
    """Read a data set in its own layout into shards of samples. Running it again takes up only what is new."""
    with engines():
        return stage("ingest", config)
