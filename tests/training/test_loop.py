import numpy as np
import pytest
import torch

from segtasks.errors import ConfigError, InputError
from segtasks.inference.predictor import Predictor
from segtasks.metrics import confusion
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.training.checkpoint import Checkpoints
from segtasks.training.loaded import load_checkpoint
from segtasks.training.loop import TrainingDiverged
from tests.training.world import CLASSES, publish_rows, row, samples, scene, shapes, train

STILL = {"scale": [1, 1], "flip": 0, "brightness": 0, "contrast": 0, "saturation": 0}


class Stopped(Exception):
    pass


def stop_after(epoch):
    def report(event):
        if event["event"] == "epoch" and event["epoch"] == epoch:
            raise Stopped

    return report


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return shapes(open_store(str(tmp_path_factory.mktemp("data"))))


@pytest.fixture
def output(tmp_path):
    return open_store(str(tmp_path / "out"))


def test_a_small_net_learns_the_shapes(snapshot, output):
    events = []
    result = train(snapshot, output, epochs=16, report=events.append)
    assert result["val"]["miou"] > 0.6
    losses = [entry["loss"] for entry in result["history"]]
    assert losses[-1] < losses[0] / 3
    start, *epochs = events
    assert start["event"] == "start"
    assert (start["images"], start["val_images"], start["steps"]) == (12, 4, 48)
    assert [event["epoch"] for event in epochs] == list(range(1, 17))
    assert [event["epoch"] for event in epochs if "val_miou" in event] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert 0 <= epochs[-1]["data_wait_fraction"] <= 1


def test_the_reported_score_is_what_a_predictor_gets(snapshot, output):
    result = train(snapshot, output)
    predictor = Predictor(load_checkpoint(result["checkpoint"]))
    metric = confusion.build(confusion.Config(), snapshot.spec)
    for number in range(4):
        image, mask = scene(1000 + number)
        metric.update(predictor.predict([image])[0].mask, mask)
    assert metric.result()["miou"] == pytest.approx(result["val"]["miou"], abs=1e-3)


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"ema": None, "optimizer": "sgd", "schedule": "poly"}], ids=["ema-adamw", "sgd"])
def test_a_run_that_was_stopped_ends_with_the_bits_of_an_undisturbed_one(snapshot, tmp_path, settings):
    settings = {**settings, "model": {"name": "unet", "options": {"width": 4, "depth": 2, "dropout": 0.2}}}
    whole = train(snapshot, open_store(str(tmp_path / "whole")), **settings)
    cut = open_store(str(tmp_path / "cut"))
    for epoch in (2, 4):  # the report comes before the checkpoint, so epochs 1 and 3 are the last ones saved
        with pytest.raises(Stopped):
            train(snapshot, cut, report=stop_after(epoch), **settings)
    events = []
    resumed = train(snapshot, cut, report=events.append, **settings)
    assert events[0]["epochs_done"] == 3
    assert resumed["digest"] == whole["digest"]
    assert [entry["loss"] for entry in resumed["history"]] == [entry["loss"] for entry in whole["history"]]
    assert resumed["val"] == whole["val"]


def test_the_seed_decides_the_weights(snapshot, tmp_path):
    digests = [train(snapshot, open_store(str(tmp_path / str(n))), epochs=1, seed=seed)["digest"] for n, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]


def test_execution_settings_do_not_change_the_weights(snapshot, tmp_path):
    usual = train(snapshot, open_store(str(tmp_path / "usual")), epochs=2)
    other = train(
        snapshot,
        open_store(str(tmp_path / "other")),
        epochs=2,
        loader_threads=3,
        prefetch=1,
        cache_bytes=0,
        checkpoint_every=2,
        keep_checkpoints=1,
    )
    assert other["digest"] == usual["digest"]


def test_a_finished_run_is_returned_and_not_trained_again(snapshot, output):
    first = train(snapshot, output)
    events = []
    assert train(snapshot, output, report=events.append) == first
    assert events == []


def test_the_result_is_the_average_and_training_goes_on_from_the_raw_weights(snapshot, tmp_path):
    raw = train(snapshot, open_store(str(tmp_path / "raw")), ema=None)
    averaged = train(snapshot, open_store(str(tmp_path / "averaged")), ema=0.9)
    assert [entry["loss"] for entry in raw["history"]] == [entry["loss"] for entry in averaged["history"]]
    assert raw["digest"] != averaged["digest"]
    kept = Checkpoints(open_store(str(tmp_path / "averaged"))).final().tensors("state")
    last = load_checkpoint(raw["checkpoint"]).model.state_dict()
    assert all(torch.equal(kept[f"raw.{name}"], tensor) for name, tensor in last.items())


def test_a_loss_that_is_not_finite_names_the_images_and_leaves_the_last_checkpoint(tmp_path, output):
    rows = [row(f"{n}.png", "train", *scene(n)) for n in range(8)]
    poison = np.full((24, 32), 2, np.uint8)
    rows.append(row("poison.png", "train", scene(8)[0], poison))
    snapshot = publish_rows(open_store(str(tmp_path / "data")), [("train", rows)])
    settings = {"loss": "tests.training.nan_loss", "augment": STILL, "val_split": None, "batch_size": 3}
    with pytest.raises(TrainingDiverged, match=r"epoch 1.*loss nan.*poison\.png.*before training") as caught:
        train(snapshot, output, **settings)
    assert caught.value.exit_code == 3
    assert str(caught.value).count(".png") == 3  # the batch, and no other image
    assert Checkpoints(output).latest() is None


def test_starting_from_a_checkpoint_of_the_same_classes_keeps_the_head(snapshot, tmp_path):
    first = train(snapshot, open_store(str(tmp_path / "first")), epochs=12)
    initial = load_checkpoint(first["checkpoint"])
    second = train(snapshot, open_store(str(tmp_path / "second")), epochs=1, lr=1e-7, ema=None, initial=initial)
    assert second["history"][0]["loss"] < 2 * first["history"][-1]["loss"]
    assert "tensors loaded" in second["notes"][0]
    assert "fresh" not in second["notes"][0]


def test_starting_from_a_checkpoint_of_other_classes_starts_a_fresh_head_and_says_so(snapshot, tmp_path):
    initial = load_checkpoint(train(snapshot, open_store(str(tmp_path / "first")), epochs=1)["checkpoint"])
    renamed = DatasetSpec(name="other", classes=(*CLASSES[:2], ClassSpec(name="crate", color=(1, 2, 3))))
    rows = [row(f"{n}.png", "train", *scene(n)) for n in range(4)]
    other = publish_rows(open_store(str(tmp_path / "data")), [("train", rows)], renamed)
    result = train(other, open_store(str(tmp_path / "second")), epochs=1, val_split=None, ema=None, lr=1e-9, initial=initial)
    assert "classes differ (ground, disc, box), so the head starts fresh" in result["notes"][0]
    before, after = initial.model.state_dict(), load_checkpoint(result["checkpoint"]).model.state_dict()
    torch.testing.assert_close(after["encoder.1.0.weight"], before["encoder.1.0.weight"], atol=1e-6, rtol=0)
    assert (after["head.weight"] - before["head.weight"]).abs().max() > 0.01


def test_another_architecture_is_refused_before_training(snapshot, tmp_path):
    initial = load_checkpoint(train(snapshot, open_store(str(tmp_path / "first")), epochs=1)["checkpoint"])
    with pytest.raises(ConfigError, match=r"is a 'unet', the configuration asks for 'tests\.training\.nan_loss'"):
        train(snapshot, open_store(str(tmp_path / "second")), model="tests.training.nan_loss", initial=initial)


def test_images_of_several_sizes_need_a_crop(tmp_path, output):
    rows = [row(f"{n}.png", "train", *scene(n, width=32 + n % 2 * 8)) for n in range(6)]
    snapshot = publish_rows(open_store(str(tmp_path / "data")), [("train", rows)])
    with pytest.raises(InputError, match=r"2 sizes \(32x24, 40x24\)"):
        train(snapshot, output, val_split=None)
    assert train(snapshot, output, val_split=None, epochs=1, augment={"crop": [16, 16]})["epoch"] == 1


def test_the_checkpoint_says_where_it_comes_from(snapshot, output):
    result = train(snapshot, output, epochs=2)
    info = load_checkpoint(result["checkpoint"]).info
    assert info.spec.names == ["ground", "disc", "box"]
    assert info.training["data"] == str(snapshot.ref)
    assert info.training["config"]["epochs"] == 2
    assert info.training["class_pixels"] == [
        int(sum((samples(snapshot).load_mask(number) == index).sum() for number in range(12))) for index in range(3)
    ]
    assert info.model.options["upsampling"] == "bilinear"  # defaults are written out
