"""Make one HTML page of an evaluation."""

from __future__ import annotations

from prefect import flow

from flows._names import run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import ReportConfig


@flow(name="report", flow_run_name=run_name(lambda config: f"report {tail(config['evaluation'])}"), **FLOW_OPTIONS)
def report(config: ReportConfig) -> JSON:
    """Make one self-contained HTML page of an evaluation."""
    with engines():
        return stage("report", config)
