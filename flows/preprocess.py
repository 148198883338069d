"""Bring images, masks and objects to one size."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows._names import run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.stages.config import PreprocessConfig


def _name(config: dict[str, Any]) -> str:
    """Without an output the settings make one."""
    output = config.get("output")
    return f"preprocess {tail(config['data'])}{f' into {tail(output)}' if output else ''}"


@flow(name="preprocess", flow_run_name=run_name(_name), **FLOW_OPTIONS)
def preprocess(config: PreprocessConfig) -> JSON:
    """Bring images, masks and objects to one size, once, so that training does not."""
    with engines():
        return stage("preprocess", config)
