"""Training on several ranks, over gloo in processes of the local engine. Starting them costs most, so one group does several runs."""

import shutil
from dataclasses import dataclass

import pytest

from segtasks.engines.local import LocalEngine
from segtasks.errors import SegtasksError
from segtasks.shards import open_snapshot
from segtasks.storage import open_store
from segtasks.training.group import gather
from segtasks.training.loaded import load_checkpoint
from tests.training.world import publish_rows, row, scene, shapes, train

# no BatchNorm, and equally many counted pixels in every image: then the mean over ranks is the mean over the batch
EXACT = {
    "model": {"name": "unet", "options": {"width": 4, "depth": 2, "norm": "group"}},
    "loss": "cross_entropy",
    "augment": {"scale": [1, 1]},
    "epochs": 17,  # 51 steps
}


@dataclass(frozen=True)
class Runs:
    data: str
    folder: str

    def __call__(self, rank):
        snapshot = open_snapshot(self.data)

        def run(name, **settings):
            return train(snapshot, open_store(f"{self.folder}/{rank.world}/{name}"), rank=rank, **settings)

        exact = run("exact", **EXACT)
        whole = run("whole", epochs=3, keep_checkpoints=3)
        if rank.rank == 0:
            shutil.copytree(f"{self.folder}/{rank.world}/whole/step-00000003", f"{self.folder}/{rank.world}/cut/step-00000003")
        resumed = run("cut", epochs=3, keep_checkpoints=3)
        heads = run("heads", **{**EXACT, "model": "tests.training.two_heads", "epochs": 3})
        ends = gather((whole["digest"], resumed["digest"]), rank.world)
        return {"exact": exact, "whole": whole, "resumed": resumed, "heads": heads, "ends": ends}


@dataclass(frozen=True)
class Diverging:
    data: str
    folder: str

    def __call__(self, rank):
        settings = {"loss": "tests.training.nan_loss", "val_split": None, "batch_size": 3, "augment": {"scale": [1, 1]}}
        return train(open_snapshot(self.data), open_store(self.folder), rank=rank, **settings)


def run_on(world, function):
    engine = LocalEngine(world)
    try:
        return engine.train(function, world, lambda event: None)
    finally:
        engine.close()


def losses(result):
    return [entry["loss"] for entry in result["history"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    shapes(open_store(folder))
    return folder


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    return run_on(1, Runs(data, str(tmp_path_factory.mktemp("one"))))


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_learn_what_one_process_learns_and_resume_to_the_bit(data, one, tmp_path, world):
    many = run_on(world, Runs(data, str(tmp_path)))

    assert losses(many["exact"]) == pytest.approx(losses(one["exact"]), abs=1e-4)
    assert many["exact"]["val"]["miou"] == pytest.approx(one["exact"]["val"]["miou"], abs=0.02)
    assert many["whole"]["val"]["valid_pixels"] == one["whole"]["val"]["valid_pixels"]  # every image is scored once

    assert losses(many["heads"]) == pytest.approx(losses(one["heads"]), abs=1e-4)

    assert many["resumed"]["digest"] == many["whole"]["digest"]
    assert losses(many["resumed"]) == losses(many["whole"])
    assert many["ends"] == [many["ends"][0]] * world

    # BatchNorm sees smaller batches on more ranks: the curve is another one, and still falls
    assert losses(many["whole"])[-1] < losses(many["whole"])[0]
    statistics = load_checkpoint(many["whole"]["checkpoint"]).model.state_dict()["encoder.0.1.running_mean"]
    assert statistics.abs().max() > 0


def test_ranks_diverge_together_and_name_the_images_of_the_guilty_one(tmp_path):
    rows = [row(f"{n}.png", "train", *scene(n)) for n in range(5)]
    image, mask = scene(5)
    rows.append(row("poison.png", "train", image, mask * 0 + 2))
    publish_rows(open_store(str(tmp_path / "data")), [("train", rows)])
    with pytest.raises(SegtasksError, match=r"training diverged.*poison\.png") as caught:
        run_on(2, Diverging(str(tmp_path / "data"), str(tmp_path / "out")))
    assert str(caught.value).count(".png") <= 2  # one rank's part of the batch
