"""The stages by name, and how the pipeline's one configuration becomes theirs. This is the only place that knows both."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from segtasks.config import Config, validate
from segtasks.engines import Engine
from segtasks.errors import ConfigError
from segtasks.stages.config import (
    EvaluateConfig,
    InferConfig,
    IngestConfig,
    PipelineConfig,
    PreprocessConfig,
    ReportConfig,
    StageConfig,
    TrainConfig,
)
from segtasks.stages.progress import Progress
from segtasks.stages.result import StageResult

C = TypeVar("C", bound=Config)

STAGES: dict[str, type[StageConfig] | type[ReportConfig]] = {
    "ingest": IngestConfig,
    "preprocess": PreprocessConfig,
    "train": TrainConfig,
    "infer": InferConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
}


@dataclass(frozen=True)
class StageConfigs:
    """Every stage's configuration, in the order in which they run."""

    ingest: IngestConfig
    preprocess: PreprocessConfig
    train: TrainConfig
    infer: InferConfig
    evaluate: EvaluateConfig
    report: ReportConfig

    def items(self) -> list[tuple[str, Config]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def run_stage(name: str, config: Config, engine: Engine | None, progress: Progress) -> StageResult:
    """Run one stage. `report` needs no engine; the others do."""
    module = name.replace("-", "_")
    function: Callable[..., StageResult] = getattr(importlib.import_module(f"segtasks.stages.{module}"), module)
    return function(config, progress) if engine is None else function(config, engine, progress)


def stage_configs(config: PipelineConfig) -> StageConfigs:
    """Fill in URLs, engine and storage, and check every section before anything runs.

    The model is trained on `<output>/prepared`; predictions are made of the validation split of the data as ingested, in full size, and
    compared with the truth there. `infer.where` chooses other images.
    """
    root = config.output.rstrip("/")
    shared: dict[str, Any] = {"engine": config.engine, "storage": config.storage}
    data, prepared, model = f"{root}/data", f"{root}/prepared", f"{root}/model"
    predictions, evaluation = f"{root}/predictions", f"{root}/evaluation"
    source = {"source": config.source, "format": config.format}
    train = _section(TrainConfig, "train", config.train, {"data": prepared, "output": model, **shared})
    predicted = {} if train.val_split is None else {"where": {"split": train.val_split}}
    return StageConfigs(
        ingest=_section(IngestConfig, "ingest", config.ingest, {"output": data, **source, **shared}),
        preprocess=_section(PreprocessConfig, "preprocess", config.preprocess, {"data": data, "output": prepared, **shared}),
        train=train,
        infer=_section(
            InferConfig, "infer", {**predicted, **config.infer}, {"data": data, "checkpoint": model, "output": predictions, **shared}
        ),
        evaluate=_section(
            EvaluateConfig, "evaluate", config.evaluate, {"predictions": predictions, "data": data, "output": evaluation, **shared}
        ),
        report=_section(
            ReportConfig, "report", config.report, {"evaluation": evaluation, "output": f"{root}/report", "storage": config.storage}
        ),
    )


def _section(model: type[C], name: str, given: dict[str, Any], filled: dict[str, Any]) -> C:
    for key in given:
        if key in filled:
            at_the_top = key in PipelineConfig.model_fields
            instead = f"set {key} at the top" if at_the_top else f"the pipeline sets it to {filled[key]}"
            raise ConfigError(f"{name}.{key} cannot be set in a pipeline: {instead}; take it out of the section")
    return validate(model, {**given, **filled}, where=name)
