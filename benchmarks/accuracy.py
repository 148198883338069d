"""Architectures and losses from nothing on the same data and budget: `python benchmarks/accuracy.py --camvid FOLDER --work FOLDER`.

CamVid (train -> val, 11 classes, void ignored) is ingested and brought to one size once; every model then has the same number of epochs,
optimiser, schedule, augmentation and seed, on one worker of the local engine, and U-Net is trained with each loss. Each run is scored on
the validation images at their own size: mIoU of the pooled confusion matrix (ours), and the F-score of boundaries within 2 pixels
(Csurka et al., BMVC 2013; mean over classes that occur, then images).

Small budgets say little about what an architecture can do: they rank what learns fast at this size. Runs are kept under --work: the same
command goes on where it was stopped. Seconds are of training alone, on a machine that may do other things: compare within a table only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from segtasks.codecs.mask import decode_mask
from segtasks.engines import EngineConfig, open_engine
from segtasks.shards import Snapshot, open_snapshot
from segtasks.stages.config import EvaluateConfig, InferConfig, IngestConfig, PreprocessConfig, TrainConfig
from segtasks.stages.pipeline import run_stage

MODELS: dict[str, dict[str, Any]] = {
    "unet": {"width": 16},
    "segnet": {},
    "deeplabv3plus": {"backbone": "resnet18"},
    "fastfcn": {"backbone": "resnet18"},
    "gated_scnn": {"backbone": "resnet18"},
    "fast_scnn": {},
    "bisenet_v2": {},
}
LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "weighted_cross_entropy": {},
    "focal": {},
    "topk_cross_entropy": {},
    "ohem_cross_entropy": {},
    "dice": {},
    "generalised_dice": {},
    "jaccard": {},
    "tversky": {},
    "iou_balanced": {},
    "lovasz_softmax": {},
    "sensitivity_specificity": {},
    "distance_cross_entropy": {},
    # distances to boundaries say little to a network that knows nothing yet: added to cross-entropy, as their authors do
    "boundary": {"with": "cross_entropy"},
    "hausdorff": {"with": "cross_entropy"},
}
reach = 2  # pixels


def boundary_f(predicted: NDArray[Any], truth: NDArray[Any], classes: int, ignore: int) -> float:
    """Mean over the classes of the truth of the F-score of their boundaries; ignored pixels and what is near them are left out."""
    valid = _grown(truth == ignore, reach) == 0
    scores = []
    for index in range(classes):
        lines = [_outline(mask == index) & valid for mask in (predicted, truth)]
        if not lines[1].any():
            continue
        near = [_grown(line, reach) for line in lines]
        hits, found = (lines[0] & near[1]).sum(), (lines[1] & near[0]).sum()
        precision, recall = hits / max(1, lines[0].sum()), found / lines[1].sum()
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return float(np.mean(scores)) if scores else float("nan")


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return np.array(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask with one outside of it beside them; the image's edge is none."""
    outside = ~np.pad(mask, 1, mode="edge")
    beside: NDArray[np.bool_] = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    return mask & beside


def masks(snapshot: Snapshot, key: str) -> dict[str, NDArray[Any]]:
    found = {}
    for record in snapshot.shards():
        for row in snapshot.read(record, [key, "split", "mask"]).to_pylist():
            if row["split"] == "val":
                found[row[key]] = decode_mask(row["mask"]["bytes"], 1 << 28)
    return found


def score(folder: Path, data: str, engine: Mapping[str, Any]) -> tuple[float, float]:
    predictions = f"{folder}/predictions"
    stage("infer", InferConfig, {"data": data, "checkpoint": f"{folder}/model", "output": predictions, "where": {"split": "val"}}, engine)
    evaluation = {"predictions": predictions, "data": data, "output": f"{folder}/evaluation"}
    miou = stage("evaluate", EvaluateConfig, evaluation, engine)["details"]["summary"]["miou"]
    truth = open_snapshot(data)
    expected, given = masks(truth, "image_id"), masks(open_snapshot(predictions), "parent_id")
    spec = truth.spec
    return miou, float(np.nanmean([boundary_f(given[name], mask, spec.num_classes, spec.ignore_index) for name, mask in expected.items()]))


def stage(name: str, config: Any, settings: Mapping[str, Any], engine: Mapping[str, Any]) -> dict[str, Any]:
    configured = config.model_validate({**settings, "engine": engine})
    runner = open_engine(EngineConfig.model_validate(engine))
    try:
        result: dict[str, Any] = run_stage(name, configured, runner, lambda event: None).model_dump(mode="json")
    finally:
        runner.close()
    return result


def loss_named(name: str, options: Mapping[str, Any]) -> Any:
    if "with" not in options:
        return {"name": name, "options": dict(options)}
    return {"name": "weighted_sum", "options": {"terms": [{"loss": options["with"]}, {"loss": name, "weight": 0.1}]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", required=True, help="CamVid in SegNet's layout")
    parser.add_argument("--work", required=True, type=Path, help="where runs are kept")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=(180, 240), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--losses", nargs="*", default=list(LOSSES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", action="store_true", help="one GPU for the worker")
    given = parser.parse_args()
    engine = {"name": "local", "workers": 1, "gpus_per_worker": 1 if given.gpu else 0}
    height, width = given.size
    data, prepared = f"{given.work}/data", f"{given.work}/prepared-{height}x{width}"
    stage("ingest", IngestConfig, {"source": given.camvid, "format": "camvid", "output": data}, engine)
    resize = {"height": height, "width": width}
    stage("preprocess", PreprocessConfig, {"data": data, "output": prepared, "resize": resize}, engine)
    budget = {"epochs": given.epochs, "batch_size": 8, "eval_every": 1000, "seed": given.seed, "loader_threads": 1}
    print(f"{given.epochs} epochs of CamVid train at {height}x{width}, batch 8, seed {given.seed}", flush=True)

    def run(model: Any, loss: Any, name: str) -> None:
        folder = given.work / f"{name}-{height}x{width}-{given.epochs}-{given.seed}"
        known = folder / "scores.json"
        if not known.exists():
            started = time.monotonic()
            settings = {"data": prepared, "output": f"{folder}/model", "model": model, "loss": loss, **budget}
            trained = stage("train", TrainConfig, settings, engine)
            miou, boundary = score(folder, data, engine)
            seconds = trained["details"]["seconds"]
            known.write_text(json.dumps({"miou": miou, "boundary": boundary, "seconds": seconds, "all": time.monotonic() - started}))
        found = json.loads(known.read_text())
        print(f"| `{name}` | {found['miou']:.3f} | {found['boundary']:.3f} | {found['seconds']:.0f} |", flush=True)

    for title, names in (("model, with weighted_cross_entropy", given.models), ("loss, of U-Net", given.losses)):
        if names:
            print(f"\n| {title} | mIoU | boundary F | seconds |\n|---|---|---|---|")
        for name in names:
            if names is given.models:
                run({"name": name, "options": MODELS[name]}, "weighted_cross_entropy", name)
            else:
                run({"name": "unet", "options": MODELS["unet"]}, loss_named(name, LOSSES[name]), f"unet-{name}")


if __name__ == "__main__":
    main()
