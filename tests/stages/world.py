"""A small data set in the `folder` layout, a tiny trained model, and how the stage tests run them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segtasks.codecs.mask import decode_mask, encode_mask
from segtasks.engines import Engine, EngineConfig, open_engine
from segtasks.shards import Snapshot, open_snapshot
from segtasks.stages.config import EvaluateConfig, InferConfig, IngestConfig, PreprocessConfig, TrainConfig
from segtasks.stages.evaluate import evaluate
from segtasks.stages.infer import infer
from segtasks.stages.ingest import ingest
from segtasks.stages.preprocess import preprocess
from segtasks.stages.result import StageResult
from segtasks.stages.train import train
from segtasks.storage import StorageOptions

PALETTE = [(0, 0, 0), (200, 30, 30), (30, 200, 30)] + [(0, 0, 0)] * 253
SPEC = """
name: blobs
classes:
- {name: ground, color: [0, 0, 0]}
- {name: red, color: [200, 30, 30]}
- {name: green, color: [30, 200, 30]}
"""
inline = EngineConfig(name="local", workers=0)


def write_images(root: Path, count: int, *, split: str = "train", start: int = 0, size: tuple[int, int] = (24, 32)) -> None:
    """Bright squares of two colours on noise, with their masks; the same number always gives the same image."""
    (root / "dataset.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "dataset.yaml").write_text(SPEC)
    for number in range(start, start + count):
        random = np.random.default_rng(number)
        height, width = size
        image = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        for label in (1, 2):
            top, left = random.integers(0, height - 8), random.integers(0, width - 8)
            mask[top : top + 8, left : left + 8] = label
            image[mask == label] = PALETTE[label]
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "images" / split / f"i{number:04d}.png")
        (root / "masks" / split / f"i{number:04d}.png").write_bytes(encode_mask(mask, PALETTE))


def run_ingest(root: Path | str, output: Path | str, runner: Engine | None = None, **settings: Any) -> StageResult:
    config = IngestConfig.model_validate({"source": str(root), "format": "folder", "output": str(output), "engine": inline, **settings})
    return ingest(config, runner or open_engine(inline))


def run_preprocess(data: Path, output: Path, runner: Engine | None = None, **settings: Any) -> StageResult:
    config = PreprocessConfig.model_validate({"data": str(data), "output": str(output), "engine": inline, **settings})
    return preprocess(config, runner or open_engine(inline))


def run_train(data: Path, output: Path, runner: Engine | None = None, **settings: Any) -> StageResult:
    base = {
        "data": str(data),
        "output": str(output),
        "engine": inline,
        "model": {"name": "unet", "options": {"width": 4, "depth": 2}},
        "epochs": 1,
        "batch_size": 4,
        "val_split": None,
        "ema": None,
    }
    return train(TrainConfig.model_validate({**base, **settings}), runner or open_engine(inline))


def run_infer(data: Path | str, checkpoint: Path, output: Path | str, runner: Engine | None = None, **settings: Any) -> StageResult:
    base = {"data": str(data), "checkpoint": str(checkpoint), "output": str(output), "engine": inline}
    return infer(InferConfig.model_validate({**base, **settings}), runner or open_engine(inline))


def run_evaluate(predictions: Path, data: Path, output: Path, runner: Engine | None = None, **settings: Any) -> StageResult:
    base = {"predictions": str(predictions), "data": str(data), "output": str(output), "engine": inline}
    return evaluate(EvaluateConfig.model_validate({**base, **settings}), runner or open_engine(inline))


@functools.cache
def model(folder: Path) -> Path:
    """A tiny U-Net trained for one epoch on 16 images, under `folder` (one a test session)."""
    source = folder / "model-source"
    write_images(source, 16)
    run_ingest(source, folder / "model-data")
    run_train(folder / "model-data", folder / "model")
    return folder / "model"


def content(url: Path | str, storage: StorageOptions | None = None) -> dict[str, tuple[str, str, str]]:
    """What must be equal for two runs to be equal: by id, the status, the error and the hash of the mask's values."""
    snapshot: Snapshot = open_snapshot(str(url), storage)
    found: dict[str, tuple[str, str, str]] = {}
    for record in snapshot.shards():
        for row in snapshot.read(record, ["image_id", "mask", "status", "error"], include_quarantined=True).to_pylist():
            assert row["image_id"] not in found, f"{row['image_id']} comes twice"
            mask = (row["mask"] or {}).get("bytes") or b""
            found[row["image_id"]] = (row["status"], row["error"], hashlib.sha256(decode_mask(mask, 1 << 30)).hexdigest() if mask else "")
    return found
