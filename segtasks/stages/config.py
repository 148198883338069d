"""The configuration of every stage: the YAML schema, the CLI's options and the Prefect flows' parameters at once.

Fields made with `execution(...)` change how the work runs; all others are part of the output's recipe.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from segtasks.checks.config import CheckSettings
from segtasks.config import Config, Plugin, execution, output_part
from segtasks.engines._watch import Limits
from segtasks.engines.config import EngineConfig
from segtasks.inference.config import Crf
from segtasks.refs import Ref
from segtasks.shards.digest import content_id
from segtasks.spec import Crop, DecodePolicy, Resize
from segtasks.storage._options import refuse_secrets
from segtasks.training.config import TrainingConfig
from segtasks.transforms.tile import Tiling

Where = dict[str, str | list[str]]


class SafeConfig(Config):
    """Refuses a secret before anything else looks at it: a configuration is stored in plans, and by Prefect."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, data: Any) -> Any:
        return refuse_secrets(data)


class StageConfig(SafeConfig):
    """What every stage has."""

    output: str = execution(..., min_length=1, description="URL of the stage's output: a folder, s3://, gs://, abfs://, memory://")
    engine: EngineConfig = execution(EngineConfig(), description="where the work runs")
    storage: dict[str, dict[str, Any]] = execution(
        {}, description="options by URL prefix (endpoint_url, profile, requester_pays, ...); names only, never secrets"
    )
    dry_run: bool = execution(False, description="print the plan and do nothing")
    limits: Limits = execution(Limits(), description="what one image may take before it is tried alone, and refused if it does so again")
    max_quarantined: float = execution(
        1.0, ge=0, le=1, description="largest share of rows that may be quarantined; over it nothing is published (exit 3)"
    )


class Selection(Config):
    """Which rows of the input are used."""

    limit: int | None = Field(default=None, ge=1, description="use the first n images (in the snapshot's order)")
    where: Where = Field(default_factory=dict, description="keep rows with these values: split, or a key of meta, for example {split: val}")


class IngestConfig(StageConfig):
    """Read a data set in its own layout into shards of samples."""

    source: str = Field(min_length=1, description="root of the data set: a folder or URL")
    format: Plugin = Field(description="reader: `segtasks readers` lists them")
    decode: DecodePolicy = Field(default_factory=DecodePolicy, description="how bytes become pixels")
    limit: int | None = Field(default=None, ge=1, description="use the first n images (in listing order)")
    shard_bytes: int = Field(default=64 << 20, ge=1 << 10, le=192 << 20, description="target size of a shard in bytes")
    shard_rows: int = Field(default=10_000, ge=1, description="largest number of images in a shard")
    splits: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="shares by split, for example {train: 0.8, val: 0.1, test: 0.1}, for images to which the source gives none: by a hash "
        "of the group (video, patient), else of the id, so that no group is torn and a grown source moves no image",
    )
    resplit: bool = Field(default=False, description="`splits` counts for all images, whatever split the source gives them")
    split_seed: int = Field(default=0, description="another seed, another choice of the same shares")
    deleted: Literal["keep", "drop", "fail"] = execution(
        "keep",
        description="what happens to rows whose image is gone from the source: keep, drop, or fail (exit 3). As the source's state decides "
        "which rows there are, and not the recipe, this may change from run to run; the snapshot says how many it dropped",
    )
    max_deleted: float = execution(
        0.5, ge=0, le=1, description="largest share of the rows that deleted=drop may drop in one run; over it nothing is done (exit 3)"
    )
    retry_quarantined: bool = execution(False, description="read refused images again, also where nothing of them changed in the source")

    @field_validator("splits")
    @classmethod
    def _splits_are_whole(cls, shares: dict[str, float]) -> dict[str, float]:
        if shares and not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
            raise ValueError(f"the shares add up to {sum(shares.values()):g}; needed: 1")
        return shares

    @model_validator(mode="after")
    def _resplit_has_splits(self) -> IngestConfig:
        if self.resplit and not self.splits:
            raise ValueError("resplit needs splits, for example {train: 0.8, val: 0.1, test: 0.1}")
        return self


class CompactConfig(StageConfig):
    """Merge the small shards of the data set at URL, and write those anew that lost many rows, in a new snapshot of the same rows."""

    target_bytes: int | None = execution(
        None, ge=1 << 10, le=192 << 20, description="size of the merged shards in bytes; none: shard_bytes, as ingest was told"
    )


class PreprocessConfig(StageConfig, Selection):
    """Bring images, masks and objects to one size, once, so that training does not: crop, then resize, then tile."""

    data: str = execution(..., min_length=1, description="shard set of samples, optionally @snapshot")
    crop: Crop | None = Field(default=None, description="region that is kept of every image; none: all of it")
    resize: Resize | None = Field(default=None, description="size to bring images (antialiased) and masks (nearest) to; none: as they are")
    tile: Tiling | None = Field(default=None, description="cut each image into tiles of one size, a row each; none: one row an image")
    encoding: Literal["png", "jpeg"] = Field(
        default="png", description="how images whose pixels change are stored: png (lossless), jpeg (quality 95); others keep their bytes"
    )
    output: str = execution(
        "", description="URL of the prepared images; by default <data>-prepared/<hash of these settings>, so that they are found done again"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _default_output(cls, data: Any, handler: ModelWrapValidatorHandler[PreprocessConfig]) -> PreprocessConfig:
        config = handler(data)
        if config.output:
            return config
        return config.model_copy(update={"output": f"{Ref.parse(config.data).url}-prepared/{content_id(output_part(config))[:12]}"})


class TrainConfig(StageConfig, TrainingConfig, Selection):
    """Train a model on a shard set."""

    data: str = execution(..., min_length=1, description="shard set of samples, optionally @snapshot")
    class_map: dict[str, str] = Field(default_factory=dict, description="data class -> model class, where their names differ")


class InferConfig(StageConfig, Selection):
    """Predict masks for every image of a shard set."""

    data: str = execution(..., min_length=1, description="shard set of samples, optionally @snapshot")
    checkpoint: str = execution(..., min_length=1, description="a checkpoint folder or a training output; its digest is in the recipe")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: float32 on CPU, bfloat16 on CUDA; fixed in the recipe"
    )
    backend: Literal["torch"] = Field(default="torch", description="what runs the model")
    crf: Crf | None = Field(
        default=None, description="sharpen masks along the edges of their images with a fully connected CRF; {}: as DeepLab"
    )
    class_map: dict[str, str] = Field(default_factory=dict, description="model class -> class of the output, to merge or rename classes")
    batch_size: int = execution(4, ge=1, description="images in a forward pass; changes no row")
    threads: int | None = execution(None, ge=1, description="torch threads in a worker; none: the CPUs shared out over the workers")


class EvaluateConfig(StageConfig):
    """Compare predictions with the truth, straight from Parquet."""

    predictions: str = execution(..., min_length=1, description="shard set of predictions, optionally @snapshot")
    data: str = execution(..., min_length=1, description="shard set of samples with masks: the one that was predicted from")
    class_map: dict[str, str] = Field(default_factory=dict, description="predicted class -> data class, where their names differ")
    metric: Plugin = Field(default=Plugin(name="confusion"), description="metric: `segtasks metrics` lists them")
    min_miou: float | None = execution(None, ge=0, le=1, description="exit 3 when the mean IoU is below this")


class CheckConfig(StageConfig, Selection, CheckSettings):
    """Say what is wrong with a data set: its images, masks and instances, classes, duplicates and splits."""

    data: str = execution(
        ..., min_length=1, description="shard set of samples, optionally @snapshot; with `format` the root of a data set in its own layout"
    )
    format: Plugin | None = execution(None, description="reader of `data`, which is then ingested first, into <output>/data")
    ingest: dict[str, Any] = execution({}, description="settings of that ingest, for example {decode: {sixteen_bit: min_max}}")
    output: str = execution(
        "", description="where rows and check.html go; by default <data>-check beside a shard set, <name>-check here for a source"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, data: Any) -> Any:
        url = data.get("data") if isinstance(data, dict) else None
        if isinstance(url, str) and not data.get("output") and (url := url.rstrip("/")):
            name = url.rpartition("/")[2].strip(".") or "data"
            data = {**data, "output": f"{name if data.get('format') else Ref.parse(url).url}-check"}
        return data


class ReportConfig(SafeConfig):
    """Make one self-contained HTML page of an evaluation."""

    evaluation: str = execution(..., min_length=1, description="shard set of an evaluation")
    output: str = execution(..., min_length=1, description="where report.html goes: a folder or URL")
    storage: dict[str, dict[str, Any]] = execution({}, description="options by URL prefix")
    examples: int = execution(6, ge=0, le=50, description="overlays of the best and of the worst images")


class ExportDataConfig(SafeConfig, Selection):
    """Write samples or predictions in a format of other tools."""

    data: str = execution(..., min_length=1, description="shard set of samples or of predictions, optionally @snapshot")
    format: Plugin = Field(description="writer: `segtasks writers` lists them")
    output: str = execution(..., min_length=1, description="where the data set goes: an empty or new folder or URL")
    images: bool = Field(default=True, description="write the images too; false: labels only")
    engine: EngineConfig = execution(EngineConfig(), description="where the work runs")
    storage: dict[str, dict[str, Any]] = execution({}, description="options by URL prefix")
    dry_run: bool = execution(False, description="say what would be written and do nothing")


class PipelineConfig(SafeConfig):
    """ingest -> preprocess -> train -> infer -> evaluate -> report under one output URL.

    Each section takes the settings of its stage except those the pipeline fills in: output, data, checkpoint, predictions,
    evaluation, engine and storage.
    """

    output: str = execution(..., min_length=1, description="URL under which every stage has its folder")
    source: str = Field(min_length=1, description="root of the data set: a folder or URL")
    format: Plugin = Field(description="reader: `segtasks readers` lists them")
    engine: EngineConfig = execution(EngineConfig(), description="where the work runs")
    storage: dict[str, dict[str, Any]] = execution({}, description="options by URL prefix")
    ingest: dict[str, Any] = Field(default_factory=dict, description="settings of ingest")
    preprocess: dict[str, Any] = Field(default_factory=dict, description="settings of preprocess")
    train: dict[str, Any] = Field(default_factory=dict, description="settings of train")
    infer: dict[str, Any] = Field(default_factory=dict, description="settings of infer")
    evaluate: dict[str, Any] = Field(default_factory=dict, description="settings of evaluate")
    report: dict[str, Any] = Field(default_factory=dict, description="settings of report")
