import json

import pytest
import torch
from torch import nn

from segtasks.config import Plugin
from segtasks.errors import InputError
from segtasks.storage import open_store
from segtasks.training.checkpoint import Checkpoints, ModelInfo, model_files
from segtasks.training.loaded import build_model, class_dependent, find_checkpoint, load_checkpoint
from segtasks.training.weights import pack, transfer, unpack, weights_digest
from tests.training.world import SPEC, TINY


@pytest.fixture
def output(tmp_path):
    return open_store(str(tmp_path / "out"))


def files(seed=0, **training):
    torch.manual_seed(seed)
    model = build_model(Plugin(**TINY), SPEC.num_classes)
    weights = pack("model", model.state_dict())
    info = ModelInfo(
        model=Plugin(**TINY),
        spec=SPEC,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        weights=tuple(weights),
        digest=weights_digest(weights),
        training=training,
    )
    return model_files(info, weights, [], {})


def checkpoints(output, keep=2):
    return Checkpoints(output.child("checkpoints"), keep)


def steps(output):
    return [found.commit.step for found in checkpoints(output).committed()]


def test_a_folder_without_commit_does_not_exist(output):
    for name, data in files().items():
        output.create(f"checkpoints/step-00000010/{name}", data)
    assert checkpoints(output).latest() is None
    output.create("checkpoints/step-00000010/commit.json", b"{}")
    assert checkpoints(output).latest() is None


def test_a_step_left_half_written_is_written_again(output):
    output.create("checkpoints/step-00000010/model.safetensors", b"half")
    checkpoints(output).write(files(), step=10, epoch=1, final=True)
    assert load_checkpoint(output.url).url.endswith("step-00000010")


def test_the_newest_checkpoints_are_kept_and_the_others_are_gone(output):
    for step in (10, 20, 30):
        checkpoints(output).write(files(step), step=step, epoch=step // 10, final=False)
    assert steps(output) == [30, 20]
    assert [entry.path for entry in output.list("checkpoints/step-00000010")] == []


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(output):
    for step in (10, 20):
        checkpoints(output).write(files(step), step=step, epoch=1, final=False)
    output.delete("checkpoints/step-00000020/model.safetensors")
    output.create("checkpoints/step-00000020/model.safetensors", b"other")
    assert checkpoints(output).latest().commit.step == 10
    again = checkpoints(output).write(files(20), step=20, epoch=2, final=False)
    assert checkpoints(output).latest().commit == again.commit


def test_a_training_output_means_its_final_checkpoint(output):
    checkpoints(output).write(files(1), step=10, epoch=1, final=False)
    with pytest.raises(InputError, match=r"not finished: its newest checkpoint is .*step-00000010"):
        find_checkpoint(output.url)
    made = checkpoints(output).write(files(2), step=20, epoch=2, final=True)
    for url in (output.url, output.child("checkpoints").url, made.url):
        assert find_checkpoint(url).url == made.url
    assert find_checkpoint(output.child("checkpoints/step-00000010").url).commit.step == 10


def test_a_loaded_model_has_the_saved_weights_and_is_in_eval(output):
    made = checkpoints(output).write(files(3), step=10, epoch=1, final=True)
    loaded = load_checkpoint(made.url)
    torch.manual_seed(3)
    expected = build_model(Plugin(**TINY), SPEC.num_classes).state_dict()
    assert not loaded.model.training
    assert loaded.info.spec == SPEC
    assert loaded.info.digest == made.commit.files["model.safetensors"]
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_what_is_no_checkpoint_is_refused_with_what_was_found(output):
    with pytest.raises(InputError, match="nothing is there"):
        load_checkpoint(output.url)
    output.create("images/a.png", b"x")
    with pytest.raises(InputError, match=r"it holds images/a\.png; needed: a folder with commit\.json"):
        load_checkpoint(output.url)


def test_damage_is_named_with_its_file(output):
    made = checkpoints(output).write(files(), step=10, epoch=1, final=True)
    made.store.delete("model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        load_checkpoint(output.url)
    made.store.create("model.safetensors", b"garbage")
    with pytest.raises(InputError, match=r"model\.safetensors is damaged: its sha256 is"):
        load_checkpoint(output.url)


def test_bytes_that_are_not_safetensors_are_an_input_error(output):
    made = {**files(), "model.safetensors": b"garbage"}
    checkpoints(output).write(made, step=10, epoch=1, final=True)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_checkpoint(output.url)


def test_weights_of_another_architecture_are_an_input_error(output):
    made = {**files(), **pack("model", nn.Linear(2, 2).state_dict())}
    checkpoints(output).write(made, step=10, epoch=1, final=True)
    with pytest.raises(InputError, match="do not fit 'unet'"):
        load_checkpoint(output.url)


def test_json_of_another_version_is_an_input_error(output):
    made = files()
    made["model.json"] = json.dumps({**json.loads(made["model.json"]), "format_of_the_future": 2}).encode()
    checkpoints(output).write(made, step=10, epoch=1, final=True)
    with pytest.raises(InputError, match="not a description of a model that this version reads"):
        load_checkpoint(output.url)


def test_large_models_are_saved_in_parts_that_load_back(output, monkeypatch):
    monkeypatch.setattr("segtasks.training.weights.part_bytes", 10_000)
    made = files(5)
    parts = [name for name in made if name.endswith(".safetensors")]
    assert len(parts) > 2
    assert parts[0] == f"model-00001-of-{len(parts):05d}.safetensors"
    checkpoints(output).write(made, step=10, epoch=1, final=True)
    torch.manual_seed(5)
    expected = build_model(Plugin(**TINY), SPEC.num_classes).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_checkpoint(output.url).model.state_dict().items())


def test_tied_and_channels_last_weights_are_saved():
    tied = torch.arange(12.0).reshape(1, 3, 2, 2).to(memory_format=torch.channels_last)
    back = unpack(pack("model", {"a": tied, "b": tied}), "here")
    assert torch.equal(back["a"], tied)
    assert torch.equal(back["b"], tied)


def test_the_head_is_what_depends_on_the_number_of_classes():
    assert class_dependent(Plugin(**TINY), 3) == ("head.weight", "head.bias")


def test_weights_are_taken_over_by_name_and_shape_and_the_rest_is_reported():
    torch.manual_seed(0)
    source, target = build_model(Plugin(**TINY), 3), build_model(Plugin(**TINY), 5)
    fresh = target.head.weight.clone()
    weights = {**source.state_dict(), "extra": torch.zeros(1)}
    del weights["encoder.0.0.weight"]
    report = transfer(target, weights)
    assert torch.equal(target.encoder[1][0].weight, source.encoder[1][0].weight)
    assert torch.equal(target.head.weight, fresh)
    assert report.missing == ("encoder.0.0.weight",)
    assert report.unexpected == ("extra",)
    assert [name.partition(":")[0] for name in report.mismatched] == ["head.weight", "head.bias"]
    assert "head.weight: 3x4x1x1 in the checkpoint, 5x4x1x1 here" in str(report)


def test_a_checkpoint_of_which_nothing_fits_is_refused():
    with pytest.raises(InputError, match="no weight of the checkpoint fits"):
        transfer(nn.Linear(2, 2), {"other": torch.zeros(1)})
