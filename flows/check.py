"""Say what is wrong with a data set."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows._names import run_name, tail
from flows._run import FLOW_OPTIONS, JSON, engines, stage
from segtasks.errors import TooManyFindings
from segtasks.stages.config import CheckConfig
from segtasks.stages.result import StageResult


@flow(name="check", flow_run_name=run_name(lambda config: f"check {tail(config['data'])}"), **FLOW_OPTIONS)
def check(config: CheckConfig) -> JSON:
    """Say what is wrong with a data set. Fails where there are more findings of a kind than `max_findings` allows."""
    try:
        with engines():
            result = stage("check", config)
    except TooManyFindings as error:
        if isinstance(error.result, StageResult):
            _show(error.result.details)
        raise
    if not config.dry_run:
        _show(result["details"])
    return result


def _show(details: JSON) -> None:
    create_table_artifact(
        key="check-findings",
        table=[{"finding": kind, "found": count, "over": kind in details["over"]} for kind, count in details["findings"].items()],
        description=f"Findings; the page is {details['page']}",
    )
