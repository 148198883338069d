"""ingest -> preprocess -> train -> infer -> evaluate -> report under one output URL. What is done is found done."""

from __future__ import annotations

from prefect import flow

from flows._names import plugin_name, run_name, tail
from flows._pictures import prediction_picture
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import PipelineConfig
from segtasks.stages.pipeline import stage_configs


@flow(
    name="pipeline",
    flow_run_name=run_name(
        lambda config: f"pipeline {plugin_name(config['format'])} {tail(config['source'])} into {tail(config['output'])}"
    ),
    **FLOW_OPTIONS,
)
def pipeline(config: PipelineConfig) -> JSON:
    """The whole pipeline. Returns every stage's result by name."""
    configs = stage_configs(config)
    with engines():
        results = {name: stage(name, part) for name, part in configs.items()}
    prediction_picture(configs.infer.output, config.storage)
    return results
