"""One configuration becomes six: what the pipeline fills in, and what it refuses to be told."""

from __future__ import annotations

from typing import Any

import pytest

from segtasks.config import validate
from segtasks.errors import ConfigError
from segtasks.stages.config import PipelineConfig
from segtasks.stages.pipeline import STAGES, StageConfigs, stage_configs

BASE = {"output": "s3://bucket/run/", "source": "s3://bucket/street", "format": "folder"}
FILLED = {
    "ingest": ("source", "format", "output", "engine", "storage"),
    "preprocess": ("data", "output", "engine", "storage"),
    "train": ("data", "output", "engine", "storage"),
    "infer": ("data", "checkpoint", "output", "engine", "storage"),
    "evaluate": ("predictions", "data", "output", "engine", "storage"),
    "report": ("evaluation", "output", "storage"),
}


def configs(**settings: Any) -> StageConfigs:
    return stage_configs(validate(PipelineConfig, {**BASE, **settings}))


def test_every_stage_has_its_folder_and_reads_the_one_before() -> None:
    made = configs()
    assert (made.ingest.source, made.ingest.output) == ("s3://bucket/street", "s3://bucket/run/data")
    assert (made.preprocess.data, made.preprocess.output) == ("s3://bucket/run/data", "s3://bucket/run/prepared")
    assert (made.train.data, made.train.output) == ("s3://bucket/run/prepared", "s3://bucket/run/model")
    assert (made.infer.checkpoint, made.infer.output) == ("s3://bucket/run/model", "s3://bucket/run/predictions")
    assert (made.evaluate.predictions, made.evaluate.output) == ("s3://bucket/run/predictions", "s3://bucket/run/evaluation")
    assert (made.report.evaluation, made.report.output) == ("s3://bucket/run/evaluation", "s3://bucket/run/report")


def test_predictions_are_of_the_data_as_ingested_and_scored_against_the_same() -> None:
    made = configs(preprocess={"resize": {"height": 240, "width": 320}})
    assert made.infer.data == made.evaluate.data == made.ingest.output != made.train.data


def test_predictions_are_of_the_validation_split_unless_told_otherwise() -> None:
    assert configs().infer.where == {"split": "val"}
    assert configs(train={"val_split": "test"}).infer.where == {"split": "test"}
    assert configs(train={"val_split": None}).infer.where == {}
    assert configs(infer={"where": {"city": "aachen"}}).infer.where == {"city": "aachen"}


def test_engine_and_storage_are_those_of_the_pipeline() -> None:
    made = configs(engine={"name": "local", "workers": 3}, storage={"s3://bucket": {"profile": "lab"}})
    for name, config in made.items():
        assert config.storage == {"s3://bucket": {"profile": "lab"}}, name
    assert {config.engine.workers for name, config in made.items() if name != "report"} == {3}


def test_sections_set_what_is_left() -> None:
    made = configs(ingest={"limit": 5}, train={"epochs": 2}, infer={"batch_size": 1}, evaluate={"min_miou": 0.5}, report={"examples": 2})
    assert (made.ingest.limit, made.train.epochs, made.infer.batch_size) == (5, 2, 1)
    assert (made.evaluate.min_miou, made.report.examples) == (0.5, 2)


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in FILLED.items() for key in keys])
def test_what_the_pipeline_fills_in_cannot_be_set_in_a_section(section: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key} cannot be set in a pipeline: .*; take it out of the section"):
        configs(**{section: {key: "x"}})


@pytest.mark.parametrize("section", STAGES)
def test_a_typo_in_any_section_is_found_before_the_first_stage_runs(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.nonsense: unknown setting"):
        configs(**{section: {"nonsense": 1}})
