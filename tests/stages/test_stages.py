"""What each stage computes, compared with somebody else's answer where there is one."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import decode_mask
from segtasks.errors import ConfigError, InputError, QualityBelowThreshold, RecipeMismatch
from segtasks.shards import open_snapshot
from segtasks.stages.config import ReportConfig
from segtasks.stages.report import report
from segtasks.training.loaded import load_checkpoint
from segtasks.transforms.resize import resize_image, resize_mask
from tests.stages import world
from tests.training import tiny_backbone


def masks(url: Path) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    snapshot = open_snapshot(str(url))
    rows = [row for record in snapshot.shards() for row in snapshot.read(record, ["image_id", "mask"]).to_pylist()]
    return {row["image_id"]: decode_mask(row["mask"]["bytes"], 1 << 20) for row in rows}


def test_evaluation_equals_scikit_learns_and_its_rows_add_up(tmp_path: Path, model: Path) -> None:
    world.write_images(tmp_path / "source", 12, split="val")
    world.run_ingest(tmp_path / "source", tmp_path / "data", shard_rows=5)
    world.run_infer(tmp_path / "data", model, tmp_path / "out")
    result = world.run_evaluate(tmp_path / "out", tmp_path / "data", tmp_path / "score")
    truth, predicted = masks(tmp_path / "data"), masks(tmp_path / "out")
    assert truth.keys() == predicted.keys()
    flat = [np.concatenate([found[key].ravel() for key in sorted(truth)]) for found in (truth, predicted)]
    iou = jaccard_score(*flat, labels=[0, 1, 2], average=None)
    summary = result.details["summary"]
    np.testing.assert_allclose([item["iou"] for item in summary["classes"]], iou, rtol=1e-12)
    rows = open_snapshot(result.url).read_all(["intersection", "truth", "predicted"]).to_pylist()
    added = {name: np.sum([row[name] for row in rows], axis=0) for name in ("intersection", "truth", "predicted")}
    np.testing.assert_allclose(added["intersection"] / (added["truth"] + added["predicted"] - added["intersection"]), iou, rtol=1e-12)
    with pytest.raises(QualityBelowThreshold, match=r"min_miou asks for 1.0"):
        world.run_evaluate(tmp_path / "out", tmp_path / "data", tmp_path / "score", min_miou=1.0)
    page = report(ReportConfig(evaluation=str(tmp_path / "score"), output=str(tmp_path / "report")))
    html = (tmp_path / "report/report.html").read_text()
    assert page.details["miou"] == summary["miou"]
    assert "blobs" in html
    assert html.count("data:image/") >= 6
    assert report(ReportConfig(evaluation=str(tmp_path / "score"), output=str(tmp_path / "report"))).already_done


def test_an_evaluation_against_other_data_is_refused(tmp_path: Path, model: Path) -> None:
    for name in ("a", "b"):
        world.write_images(tmp_path / name, 3)
        world.run_ingest(tmp_path / name, tmp_path / f"data-{name}")
    world.run_infer(tmp_path / "data-a", model, tmp_path / "out")
    with pytest.raises(InputError, match="was not predicted from"):
        world.run_evaluate(tmp_path / "out", tmp_path / "data-b", tmp_path / "score")
    with pytest.raises(InputError, match=r"holds samples/1 \(made by ingest\); needed: predictions/1"):
        world.run_evaluate(tmp_path / "data-a", tmp_path / "data-a", tmp_path / "score")


def test_preprocess_resizes_images_and_masks_and_remembers_the_size(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 3)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    world.run_preprocess(tmp_path / "data", tmp_path / "small", resize={"height": 12, "width": 20})
    before, after = open_snapshot(str(tmp_path / "data")), open_snapshot(str(tmp_path / "small"))
    assert after.spec.resize is not None
    assert (after.spec.resize.height, after.spec.resize.width) == (12, 20)
    old, new = (snapshot.read(snapshot.shards()[0]).to_pylist() for snapshot in (before, after))
    assert [row["image_id"] for row in old] == [row["image_id"] for row in new]
    for one, other in zip(old, new, strict=True):
        image = resize_image(decode_image(one["image"]["bytes"], before.spec.decode).pixels, 12, 20)
        np.testing.assert_array_equal(decode_image(other["image"]["bytes"], after.spec.decode).pixels, image)
        mask = resize_mask(decode_mask(one["mask"]["bytes"], 1 << 20), 12, 20)
        np.testing.assert_array_equal(decode_mask(other["mask"]["bytes"], 1 << 20), mask)
        assert (other["height"], other["width"], other["source_uri"]) == (12, 20, one["source_uri"])


def test_training_is_found_done_resumes_and_starts_from_another_model(tmp_path: Path, model: Path) -> None:
    world.write_images(tmp_path / "source", 8)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    first = world.run_train(tmp_path / "data", tmp_path / "model", init_from=str(model))
    again = world.run_train(tmp_path / "data", tmp_path / "model", init_from=str(model))
    assert (first.already_done, again.already_done) == (False, True)
    assert first.details["digest"] == again.details["digest"]
    recipe = json.loads((tmp_path / "model/recipe.json").read_text())
    assert len(recipe["resolved"]["init_from"]) == 64
    with pytest.raises(InputError, match="is no checkpoint"):
        world.run_train(tmp_path / "data", tmp_path / "other", init_from=str(tmp_path / "data"))


def test_training_starts_from_pretrained_weights_whose_hash_is_in_the_recipe(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 8)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    torch.manual_seed(7)
    weights = {**tiny_backbone.Backbone(3).state_dict(), "fc.weight": torch.zeros(10, 8)}
    for name in ("weights.pth", "same.pth"):
        torch.save(weights, tmp_path / name)
    torch.save({**weights, "conv2.bias": torch.ones(8)}, tmp_path / "other.pth")
    (tmp_path / "same.pth").write_bytes((tmp_path / "weights.pth").read_bytes())
    settings = {"model": "tests.training.tiny_backbone", "lr": 1e-12}
    first = world.run_train(tmp_path / "data", tmp_path / "model", weights=str(tmp_path / "weights.pth"), **settings)
    digest = sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "model/recipe.json").read_text())["resolved"] == {"weights": digest}
    assert first.details["notes"] == [
        f"backbone's weights from {tmp_path}/weights.pth (sha256 {digest[:16]}): the classifier (fc.weight) left out; 8 tensors loaded"
    ]
    trained = load_checkpoint(first.details["checkpoint"]).model.get_submodule("backbone").state_dict()
    torch.testing.assert_close(trained["conv2.weight"], weights["conv2.weight"])
    assert world.run_train(tmp_path / "data", tmp_path / "model", weights=str(tmp_path / "same.pth"), **settings).already_done
    with pytest.raises(RecipeMismatch, match="weights"):
        world.run_train(tmp_path / "data", tmp_path / "model", weights=str(tmp_path / "other.pth"), **settings)
    with pytest.raises(InputError, match="model 'unet' has no backbone"):
        world.run_train(tmp_path / "data", tmp_path / "unet", weights=str(tmp_path / "weights.pth"))
    assert not (tmp_path / "unet").exists()


def test_class_map_renames_and_merges_classes_on_the_way_to_a_score(tmp_path: Path, model: Path) -> None:
    world.write_images(tmp_path / "source", 4, split="val")
    (tmp_path / "source/dataset.yaml").write_text(world.SPEC.replace("name: green", "name: lime"))
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    world.run_infer(tmp_path / "data", model, tmp_path / "out")
    with pytest.raises(ConfigError, match="class 'green' has no counterpart"):
        world.run_evaluate(tmp_path / "out", tmp_path / "data", tmp_path / "score")
    result = world.run_evaluate(tmp_path / "out", tmp_path / "data", tmp_path / "score", class_map={"green": "lime"})
    assert [item["name"] for item in result.details["summary"]["classes"]] == ["ground", "red", "lime"]
    merged = world.run_infer(tmp_path / "data", model, tmp_path / "merged", class_map={"red": "green"})
    assert open_snapshot(merged.url).spec.names == ["ground", "green"]
