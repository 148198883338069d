"""Write samples or predictions in a format of other tools."""

from __future__ import annotations

from prefect import flow

from flows._names import plugin_name, run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import ExportDataConfig


@flow(
    name="export-data",
    flow_run_name=run_name(
        lambda config: f"export {tail(config['data'])} as {plugin_name(config['format'])} into {tail(config['output'])}"
    ),
    **FLOW_OPTIONS,
)
def export_data(config: ExportDataConfig) -> JSON:
    """Write samples or predictions in a format of other tools. Stopped in the middle, the same parameters write it again from the start."""
    with engines():
        return stage("export-data", config)
