"""Every setting is on the side (output or execution) that this table says, and wrong settings are explained in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segtasks.checks.config import CheckSettings, MaxFindings
from segtasks.config import Config, Plugin, affects_output, apply_overrides, load_yaml, output_part, validate
from segtasks.engines._watch import Limits
from segtasks.engines.config import EngineConfig
from segtasks.errors import ConfigError
from segtasks.spec import Crop, DecodePolicy, Resize
from segtasks.stages.config import (
    CheckConfig,
    CompactConfig,
    EvaluateConfig,
    InferConfig,
    IngestConfig,
    PipelineConfig,
    PreprocessConfig,
    ReportConfig,
    TrainConfig,
)
from segtasks.training.config import Oversample, TrainingConfig
from segtasks.transforms.config import AugmentConfig
from segtasks.transforms.tile import Tiling

ENGINE = {"name": "local", "address": "auto", "workers": 3, "ship_code": False, "gpus_per_worker": 0.5}
LIMITS = {"seconds": 3.0, "memory_bytes": 1 << 30}
STAGE_EXECUTION = {
    "output": "elsewhere",
    "engine": ENGINE,
    "storage": {"s3://a": {"anon": True}},
    "dry_run": True,
    "limits": LIMITS,
    "max_quarantined": 0.5,
}
TRAINING_OUTPUT = {
    "model": {"name": "unet", "options": {"width": 8}},
    "loss": "cross_entropy",
    "epochs": 3,
    "batch_size": 3,
    "optimizer": "sgd",
    "lr": 0.5,
    "weight_decay": 0.5,
    "schedule": "poly",
    "warmup": 0.5,
    "grad_clip": None,
    "ema": None,
    "augment": {"scale": [1, 1], "crop": [32, 32], "flip": 0.1, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1},
    "oversample": {"threshold": 0.1, "power": 1},
    "mean": [0.1, 0.1, 0.1],
    "std": [0.1, 0.1, 0.1],
    "train_split": "other",
    "val_split": None,
    "eval_every": 3,
    "seed": 3,
    "shuffle_bytes": 3,
    "precision": "bfloat16",
}
TRAINING_EXECUTION = {
    "init_from": "model",
    "weights": "resnet50.pth",
    "checkpoint_every": 3,
    "keep_checkpoints": 3,
    "loader_threads": 3,
    "prefetch": 3,
    "cache_bytes": 3,
}
SELECTION = {"limit": 3, "where": {"split": "val"}}
CHECK_SETTINGS = {
    "max_findings": {"quarantined": 3},
    "background": ["sky"],
    "min_object_pixels": 3,
    "max_disagreement": 0.5,
    "area_tolerance": 0.5,
    "box_tolerance": 3.0,
    "near_distance": 3,
    "constant_std": 3.0,
    "odd_area": 3.0,
    "odd_aspect": 3.0,
    "odd_share": 0.5,
    "rare_share": 0.5,
    "examples": 3,
}

# model: (settings it needs, output-affecting fields, execution fields), each field with another value than it has
TABLE: dict[type[Config], tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    EngineConfig: ({}, {}, ENGINE),
    Limits: ({}, {}, LIMITS),
    DecodePolicy: ({}, {"max_pixels": 3, "sixteen_bit": "min_max", "formats": ["PNG"]}, {}),
    Resize: ({"height": 1, "width": 1}, {"height": 2, "width": 2, "policy": "letterbox", "fill": [0, 0, 0]}, {}),
    Crop: ({"height": 1, "width": 1}, {"top": 2, "left": 2, "height": 2, "width": 2}, {}),
    Tiling: (
        {"height": 8, "width": 8},
        {"height": 9, "width": 9, "overlap": 2, "edge": "pad", "keep_empty": 0.5, "background": ["sky"], "fill": [0, 0, 0]},
        {},
    ),
    AugmentConfig: ({}, TRAINING_OUTPUT["augment"], {}),
    Oversample: ({"threshold": 0.5}, TRAINING_OUTPUT["oversample"], {}),
    TrainingConfig: ({}, TRAINING_OUTPUT, TRAINING_EXECUTION),
    IngestConfig: (
        {"source": "a", "format": "folder", "output": "b", "splits": {"train": 1.0}},
        {
            "source": "other",
            "format": "camvid",
            "decode": {"max_pixels": 3, "sixteen_bit": "min_max", "formats": ["PNG"]},
            "limit": 3,
            "shard_bytes": 2048,
            "shard_rows": 3,
            "splits": {"train": 0.5, "val": 0.5},
            "resplit": True,
            "split_seed": 3,
        },
        {**STAGE_EXECUTION, "deleted": "drop", "max_deleted": 0.1, "retry_quarantined": True},
    ),
    CompactConfig: ({"output": "b"}, {}, {**STAGE_EXECUTION, "target_bytes": 2048}),
    PreprocessConfig: (
        {"data": "a", "output": "b"},
        {
            **SELECTION,
            "crop": {"height": 2, "width": 2},
            "resize": {"height": 2, "width": 2},
            "tile": {"height": 2, "width": 2},
            "encoding": "jpeg",
        },
        {**STAGE_EXECUTION, "data": "a@2"},
    ),
    TrainConfig: (
        {"data": "a", "output": "b"},
        {**SELECTION, **TRAINING_OUTPUT, "class_map": {"car": "vehicle"}},
        {**STAGE_EXECUTION, **TRAINING_EXECUTION, "data": "a@2"},
    ),
    InferConfig: (
        {"data": "a", "checkpoint": "m", "output": "b"},
        {**SELECTION, "precision": "bfloat16", "class_map": {"car": "vehicle"}, "crf": {"iterations": 5}},
        {**STAGE_EXECUTION, "data": "a@2", "checkpoint": "other", "batch_size": 3, "threads": 3},
    ),
    EvaluateConfig: (
        {"predictions": "p", "data": "a", "output": "b"},
        {"class_map": {"car": "vehicle"}, "metric": {"name": "confusion", "options": {"exclude": ["sky"]}}},
        {**STAGE_EXECUTION, "predictions": "p@2", "data": "a@2", "min_miou": 0.5},
    ),
    MaxFindings: ({}, {}, dict.fromkeys(MaxFindings.model_fields, 3)),
    CheckSettings: ({}, {}, CHECK_SETTINGS),
    CheckConfig: (
        {"data": "a", "output": "b"},
        SELECTION,
        {**STAGE_EXECUTION, **CHECK_SETTINGS, "data": "a@2", "format": "folder", "ingest": {"shard_rows": 3}},
    ),
    ReportConfig: (
        {"evaluation": "e", "output": "b"},
        {},
        {"evaluation": "e@2", "output": "other", "storage": {"s3://a": {"anon": True}}, "examples": 3},
    ),
    PipelineConfig: (
        {"output": "b", "source": "a", "format": "folder"},
        {
            "source": "other",
            "format": "camvid",
            "ingest": {"limit": 3},
            "preprocess": {"encoding": "jpeg"},
            "train": {"epochs": 3},
            "infer": {"batch_size": 3},
            "evaluate": {"min_miou": 0.5},
            "report": {"examples": 3},
        },
        {"output": "other", "engine": ENGINE, "storage": {"s3://a": {"anon": True}}},
    ),
}
ALONE = {(InferConfig, "backend"), (Resize, "size")}  # in the recipe; the first for values to come, the other goes with no height and width
MODELS = [pytest.param(model, id=model.__name__) for model in TABLE]


def fields(side: str) -> list[Any]:
    index = {"output": 1, "execution": 2}[side]
    return [
        pytest.param(model, name, value, id=f"{model.__name__}.{name}")
        for model, row in TABLE.items()
        for name, value in row[index].items()
    ]


@pytest.mark.parametrize("model", MODELS)
def test_the_table_names_every_field_on_its_side(model: type[Config]) -> None:
    _, output, execution = TABLE[model]
    output_fields = {name for name in model.model_fields if affects_output(model, name)}
    alone = {name for owner, name in ALONE if owner is model}
    assert output_fields == set(output) | alone
    assert set(model.model_fields) - output_fields == set(execution)


@pytest.mark.parametrize(("model", "name", "value"), fields("execution"))
def test_an_execution_field_never_changes_the_recipe(model: type[Config], name: str, value: Any) -> None:
    base = TABLE[model][0]
    plain, changed = validate(model, base), validate(model, {**base, name: value})
    assert getattr(plain, name) != getattr(changed, name)
    assert output_part(plain) == output_part(changed)


@pytest.mark.parametrize(("model", "name", "value"), fields("output"))
def test_an_output_field_always_changes_the_recipe(model: type[Config], name: str, value: Any) -> None:
    base = TABLE[model][0]
    plain, changed = output_part(validate(model, base)), output_part(validate(model, {**base, name: value}))
    assert plain[name] != changed[name]
    assert {key: item for key, item in plain.items() if key != name} == {key: item for key, item in changed.items() if key != name}


@pytest.mark.parametrize("model", MODELS)
def test_every_field_is_described_and_no_value_can_be_changed_or_invented(model: type[Config]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []
    config = validate(model, TABLE[model][0])
    with pytest.raises(ValueError, match="frozen"):
        setattr(config, next(iter(model.model_fields)), "x")
    with pytest.raises(ConfigError, match="nonsense: unknown setting"):
        validate(model, {**TABLE[model][0], "nonsense": 1})


def test_a_default_written_out_is_the_same_recipe() -> None:
    base = TABLE[TrainConfig][0]
    plain = validate(TrainConfig, base)
    assert output_part(validate(TrainConfig, {**base, "epochs": plain.epochs, "mean": list(plain.mean)})) == output_part(plain)


def test_a_typo_is_answered_with_the_nearest_setting() -> None:
    with pytest.raises(ConfigError, match=r"train\.epoch: unknown setting\. Did you mean 'epochs'\?"):
        validate(TrainConfig, {"data": "a", "output": "b", "epoch": 3}, where="train")


def test_a_typo_in_a_nested_section_is_answered_from_that_section() -> None:
    with pytest.raises(ConfigError, match=r"augment\.flipp: unknown setting\. Did you mean 'flip'\?"):
        validate(TrainConfig, {"data": "a", "output": "b", "augment": {"flipp": 0.1}})


def test_each_problem_has_its_line_with_what_was_found_and_needed() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(IngestConfig, {"output": "b", "format": "folder", "shard_rows": 0, "max_quarantined": "many"})
    lines = str(caught.value).splitlines()
    assert "source: missing; needed: root of the data set: a folder or URL" in lines
    assert any(line.startswith("shard_rows: ") and line.endswith("(found: 0)") for line in lines)
    assert any(line.startswith("max_quarantined: ") and line.endswith("(found: 'many')") for line in lines)
    assert len(lines) == 3


def test_settings_that_contradict_each_other_are_named_without_the_whole_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(TrainConfig, {"data": "a", "output": "b", "weights": "w.pth", "init_from": "m"})
    assert str(caught.value) == (
        "configuration: weights (w.pth) and init_from (m) are both set; needed: one of them: init_from brings a whole model, its "
        "backbone included"
    )


def test_a_plugin_is_a_name_or_a_name_with_options() -> None:
    base = {"source": "a", "output": "b"}
    assert validate(IngestConfig, {**base, "format": "folder"}).format == Plugin(name="folder")
    with_options = validate(IngestConfig, {**base, "format": {"name": "folder", "options": {"ignore": 0}}})
    assert with_options.format == Plugin(name="folder", options={"ignore": 0})


def test_overrides_are_yaml_at_dotted_keys_and_leave_the_rest() -> None:
    data = {"train": {"epochs": 3, "lr": 0.1}, "format": "folder"}
    changed = apply_overrides(
        data, ["train.epochs=5", "train.val_split=", "format.options.ignore=0", "infer.where={split: [a, b]}", "x=1=2"]
    )
    assert changed == {
        "train": {"epochs": 5, "lr": 0.1, "val_split": None},
        "format": {"name": "folder", "options": {"ignore": 0}},
        "infer": {"where": {"split": ["a", "b"]}},
        "x": "1=2",
    }
    assert data == {"train": {"epochs": 3, "lr": 0.1}, "format": "folder"}


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_an_argument_without_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an override; needed: key=value"):
        apply_overrides({}, [text])


def test_an_override_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match="the value of 'a' is not valid YAML"):
        apply_overrides({}, ["a=[1, 2"])


def test_a_yaml_file_is_a_mapping_and_an_empty_one_means_no_settings(tmp_path: Path) -> None:
    good, empty = tmp_path / "good.yaml", tmp_path / "empty.yaml"
    good.write_text("epochs: 3\nwhere: {split: val}\n")
    empty.write_text("# nothing\n")
    assert load_yaml(str(good)) == {"epochs": 3, "where": {"split": "val"}}
    assert load_yaml(str(empty)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b\n", "holds a list; needed: a mapping"), ("a: [1,\nb: 2", "is not valid YAML"), (None, "no configuration file at")],
)
def test_a_yaml_file_that_cannot_be_used_says_why(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_yaml(str(path))


def test_a_folder_in_place_of_a_yaml_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(str(tmp_path))
