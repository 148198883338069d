"""Bring images and masks to one size."""

from __future__ import annotations

from prefect import flow

from flows._names import run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import PreprocessConfig


@flow(
    name="preprocess",
    flow_run_name=run_name(lambda config: f"preprocess {tail(config['data'])} into {tail(config['output'])}"),
    **FLOW_OPTIONS,
)
def preprocess(config: PreprocessConfig) -> JSON:
    """Bring images and masks to one size, once, so that training does not."""
    with engines():
        return stage("preprocess", config)
