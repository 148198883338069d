"""`segtasks run`: the whole pipeline through Prefect, its ephemeral API if nothing else is set up."""

from __future__ import annotations

import os
from typing import Any

import click
import yaml

from segtasks.cli.outcome import Outcome
from segtasks.cli.progress import display
from segtasks.cli.scores import score_lines
from segtasks.cli.settings import WithSettings, engine_options, json_option, load
from segtasks.cli.stages import result_line
from segtasks.errors import MissingExtra
from segtasks.stages.config import PipelineConfig
from segtasks.stages.pipeline import StageConfigs, stage_configs
from segtasks.stages.result import StageResult

# Settings of Prefect unless the environment has them; Prefect reads them when it is imported.
PREFECT_DEFAULTS = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # our own progress and errors say it; the API still gets every line
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its 20 s are too few for a first start on a busy machine
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def _engine(function: Any) -> Any:
    for decorator in reversed(engine_options()):
        function = decorator(function)
    return function


@click.command("run", cls=WithSettings, help="Run the pipeline of FILE (YAML): ingest, preprocess, train, infer, evaluate, report.")
@click.argument("file")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_engine
@click.option("--dry-run", is_flag=True, help="print every stage's settings and do nothing")
@json_option
def run(file: str, overrides: tuple[str, ...], dry_run: bool, as_json: bool, **given: Any) -> Outcome:
    config = load(PipelineConfig, file, given, overrides)
    configs = stage_configs(config)
    if dry_run:
        return planned(configs)
    results = {name: StageResult.model_validate(result) for name, result in run_flow(config).items()}
    document = {name: result.model_dump(mode="json") for name, result in results.items()}
    return Outcome(document, summary(results))


assert isinstance(run, WithSettings)
run.model, run.shown_as_options = PipelineConfig, ("engine.name", "engine.address", "engine.workers")


def planned(configs: StageConfigs) -> Outcome:
    """The settings of each stage as they would run."""
    document = {name: config.model_dump(mode="json") for name, config in configs.items()}
    return Outcome(document, yaml.safe_dump(document, sort_keys=False).splitlines())


def run_flow(config: PipelineConfig) -> dict[str, Any]:
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from flows._run import listening
        from flows.pipeline import pipeline
    except ImportError as error:
        raise MissingExtra(
            f"segtasks run needs Prefect ({error}): pip install prefect, or run the stages one by one, for example segtasks ingest"
        ) from error
    with display() as progress, listening(progress):
        return pipeline(config)


def summary(results: dict[str, StageResult]) -> list[str]:
    """A line a stage, then the metrics, then where the report is."""
    lines = [result_line(result) for result in results.values()]
    lines += ["", *score_lines(results["evaluate"].details["summary"]), ""]
    return [*lines, f"report: {results['report'].url}/report.html"]
