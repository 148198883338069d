"""Train a model on a shard set."""

from __future__ import annotations

from prefect import flow

from flows._names import plugin_name, run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import TrainConfig


@flow(
    name="train",
    flow_run_name=run_name(lambda config: f"train {plugin_name(config.get('model', 'unet'))} on {tail(config['data'])}"),
    **FLOW_OPTIONS,
)
def train(config: TrainConfig) -> JSON:
    """Train a model on a shard set. A run that was stopped goes on from its last checkpoint."""
    with engines():
        return stage("train", config)
