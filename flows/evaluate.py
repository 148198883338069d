"""Compare predictions with the truth."""

from __future__ import annotations

from prefect import flow

from flows._names import run_name, tail
from flows._pictures import prediction_picture
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import EvaluateConfig


@flow(name="evaluate", flow_run_name=run_name(lambda config: f"evaluate {tail(config['predictions'])}"), **FLOW_OPTIONS)
def evaluate(config: EvaluateConfig) -> JSON:
    """Compare predictions with the truth, straight from Parquet. Fails where the mean IoU is below `min_miou`."""
    with engines():
        result = stage("evaluate", config)
    if not config.dry_run:
        prediction_picture(config.predictions, config.storage)
    return result
