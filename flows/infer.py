"""Predict masks for every image of a shard set."""

from __future__ import annotations

from prefect import flow

from flows._names import run_name, tail
from flows._pictures import prediction_picture
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import InferConfig


@flow(
    name="infer",
    flow_run_name=run_name(lambda config: f"infer {tail(config['data'])} with {tail(config['checkpoint'])}"),
    **FLOW_OPTIONS,
)
def infer(config: InferConfig) -> JSON:
    """Predict masks for every image of a shard set. Running it again does only what is missing."""
    with engines():
        result = stage("infer", config)
    if not config.dry_run:
        prediction_picture(config.output, config.storage)
    return result
