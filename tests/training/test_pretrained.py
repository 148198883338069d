"""Weights of a backbone from a file: which files are taken, what is said about them, and what is refused."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import threading
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import InputError
from segtasks.models import deeplabv3
from segtasks.models._backbones import build_backbone
from segtasks.storage import open_store
from segtasks.training.pretrained import Pretrained, adapt_channels, load_backbone, plan_pretrained, read_weights
from tests.training import tiny_backbone
from tests.training.test_loop import Stopped, stop_after
from tests.training.world import shapes, train

TINY = "tests.training.tiny_backbone"


def saved(tensors, **how):
    buffer = io.BytesIO()
    torch.save(tensors, buffer, **how)
    return buffer.getvalue()


def given(**changed):
    """Weights of another run of the tiny backbone, with a classifier as torchvision's files have one."""
    torch.manual_seed(7)
    return {**tiny_backbone.Backbone(3).state_dict(), "fc.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(10), **changed}


def found(path):
    return Pretrained(str(path), hashlib.sha256(Path(path).read_bytes()).hexdigest())


def write(path, tensors):
    Path(path).write_bytes(saved(tensors))
    return found(path)


def fresh(channels=3):
    torch.manual_seed(0)
    return tiny_backbone.build(tiny_backbone.Config(), 3, channels)


@pytest.mark.parametrize(
    "data",
    [
        saved(given()),
        saved(given(), _use_new_zipfile_serialization=False),  # what torchvision's older files are
        saved({"state_dict": given(), "epoch": 90}),
        saved({"model": {f"module.{name}": tensor for name, tensor in given().items()}}),
        saved({**{f"backbone.{name}": tensor for name, tensor in given().items()}, "classifier.weight": torch.zeros(3)}),
        saved({name: tensor.half() if name.startswith("conv") else tensor for name, tensor in given().items()}),
    ],
    ids=["plain", "legacy", "nested", "data_parallel", "whole_model", "half"],
)
def test_a_state_dict_is_found_in_what_tools_save(tmp_path, data):
    (tmp_path / "weights.pth").write_bytes(data)
    net = fresh()
    load_backbone(net, found(tmp_path / "weights.pth"))
    for name, tensor in net.backbone.state_dict().items():
        torch.testing.assert_close(tensor, given()[name], rtol=1e-3, atol=1e-3)


def test_the_report_names_what_fits_and_what_does_not(tmp_path):
    weights = given(**{"layer9.weight": torch.zeros(3), "conv2.bias": torch.zeros(9)})
    del weights["bn1.running_var"]
    pretrained = write(tmp_path / "weights.pth", weights)
    assert load_backbone(fresh(), pretrained) == (
        f"backbone's weights from {tmp_path}/weights.pth (sha256 {pretrained.digest[:16]}): the classifier (fc.weight, fc.bias) left out; "
        "6 tensors loaded; 1 new here, freshly initialised: bn1.running_var; 1 not used: layer9.weight; "
        "1 of another shape, freshly initialised: conv2.bias: 9 in the checkpoint, 8 here"
    )
    assert pretrained.digest == hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg16_bn"])
def test_official_weights_fit_with_only_the_classifier_left_over(tmp_path, name):
    source = build_backbone(name)
    weights = {key: tensor for key, tensor in source.state_dict().items() if not key.endswith("num_batches_tracked")}  # as old files are
    net = nn.Module()
    net.backbone = build_backbone(name)
    classifier = {"fc.weight": torch.zeros(10, 8)} if name == "resnet18" else {"classifier.0.weight": torch.zeros(10, 8)}
    report = load_backbone(net, write(tmp_path / "weights.pth", {**weights, **classifier}))
    assert report.endswith(f": the classifier ({next(iter(classifier))}) left out; {len(weights)} tensors loaded")
    assert all(torch.equal(tensor, weights[key]) for key, tensor in net.backbone.state_dict().items() if key in weights)


def test_a_grey_image_gives_what_its_rgb_copy_gives_with_the_official_weights(tmp_path):
    pretrained = write(tmp_path / "weights.pth", given())
    grey_N1HW = torch.randn(2, 1, 9, 9)
    one, three = fresh(1), fresh(3)
    report = load_backbone(one, pretrained)
    load_backbone(three, pretrained)
    torch.testing.assert_close(one.backbone(grey_N1HW), three.backbone(grey_N1HW.repeat(1, 3, 1, 1)))
    assert "conv1.weight adapted from 3 input channels to 1" in report


def test_more_channels_repeat_rgb_and_keep_the_size_of_the_responses():
    weight = torch.randn(8, 3, 3, 3)
    image_N3HW = torch.randn(1, 3, 9, 9)
    six = adapt_channels(weight, 6)
    torch.testing.assert_close(F.conv2d(image_N3HW.repeat(1, 2, 1, 1), six), F.conv2d(image_N3HW, weight))
    four = adapt_channels(weight, 4)
    torch.testing.assert_close(four, torch.cat([weight, weight[:, :1]], 1) * 0.75)
    torch.testing.assert_close(adapt_channels(weight, 2), weight[:, :2] * 1.5)


class Opens:
    """Pickles as a call: what a malicious file does."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pth", b"", "is not a file of weights"),
        ("a.pth", b"<html>404</html>", "is not a file of weights"),
        ("a.pth", saved(given())[:-500], "is not a file of weights"),
        ("a.pth", saved({"args": argparse.Namespace(lr=1), **given()}), "holds more than tensors .*argparse.Namespace"),
        ("a.pt", saved(torch.zeros(3)), "holds a Tensor; needed: a state dict"),
        ("a.pth", saved({"epoch": 3, "best": 0.5}), "holds no tensors, but epoch: int, best: float"),
        ("a.pth", saved({}), "holds no tensors, but nothing"),
        ("a.safetensors", saved(given()), "is not a safetensors file"),
        ("a.pth", safetensors.torch.save(given()), "is not a file of weights"),
    ],
)
def test_a_file_that_is_not_weights_is_refused_in_words(name, data, message):
    with pytest.raises(InputError, match=message):
        read_weights(data, name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_a_file_is_not_run(tmp_path, protocol):
    bait = tmp_path / "was-here"
    with pytest.raises(InputError, match=r"weights\.pth"):
        read_weights(pickle.dumps({"conv1.weight": Opens(str(bait))}, protocol), "weights.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        read_weights(saved({"conv1.weight": Opens(str(bait))}), "weights.pth")
    assert not bait.exists()


def test_damaged_bytes_end_in_no_other_error():
    for data in (saved({"a": torch.ones(40)}), saved({"a": torch.ones(40)}, _use_new_zipfile_serialization=False)):
        for at in range(0, len(data), 29):
            for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]):
                with suppress(InputError):
                    read_weights(damaged, "weights.pth")


@pytest.mark.parametrize(
    "weights",
    [
        {"a.weight": torch.zeros(3, 3)},
        {"bn1.num_batches_tracked": torch.tensor(3)},
        {"bn1.bias": torch.ones(8)},
        given(**{"conv1.weight": torch.ones(8, 3, 5, 5), "conv2.weight": torch.ones(9, 8, 3, 3)}),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, weights):
    with pytest.raises(InputError, match="has other weights than the model's backbone"):
        load_backbone(fresh(), write(tmp_path / "weights.pth", weights))


def plan(url):
    return plan_pretrained(Plugin(name=TINY), 3, str(url))


def test_what_is_wrong_is_found_when_the_run_is_planned(tmp_path):
    with pytest.raises(InputError, match=r"there is no file of weights at .*none\.pth; needed: a state dict"):
        plan(tmp_path / "none.pth")
    with pytest.raises(InputError, match="there is no file of weights at"):
        plan(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        plan(f"{tmp_path}/")
    write(tmp_path / "other.pth", {"a.weight": torch.zeros(3, 3)})
    with pytest.raises(InputError, match=r"other\.pth has other weights than the model's backbone: .* it has a\.weight"):
        plan(tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"model 'unet' has no backbone .*deeplabv3, .*use init_from"):
        plan_pretrained(Plugin(name="unet"), 3, str(tmp_path / "none.pth"))


def test_a_file_that_changed_since_the_run_was_planned_is_refused(tmp_path):
    write(tmp_path / "weights.pth", given())
    planned = plan(tmp_path / "weights.pth")
    write(tmp_path / "weights.pth", given(extra=torch.zeros(1)))
    with pytest.raises(InputError, match="changed since the run was planned"):
        load_backbone(fresh(), planned)


def test_a_url_is_read_through_its_store(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(safetensors.torch.save(given()))
    with fsspec.open("memory://pretrained/weights.pth", "wb") as file:
        file.write(saved(given()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for url in ("memory://pretrained/weights.pth", f"http://127.0.0.1:{server.server_port}/weights.safetensors"):
            net = fresh()
            assert "tensors loaded" in load_backbone(net, pickle.loads(pickle.dumps(plan(url))))
            assert torch.equal(net.backbone.conv2.weight, given()["conv2.weight"])
        with pytest.raises(InputError, match="there is no file of weights at http"):
            plan(f"http://127.0.0.1:{server.server_port}/none.pth")
    finally:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


@pytest.mark.slow
def test_torchvisions_whole_deeplab_gives_its_backbone_to_ours(tmp_path):
    config = deeplabv3.Config(backbone="resnet18")
    source, net = deeplabv3.build(config, 21), deeplabv3.build(config, 3)
    report = load_backbone(net, write(tmp_path / "weights.pth", source.state_dict()))
    assert report.endswith("120 tensors loaded")
    assert torch.equal(net.backbone.layer4[1].conv2.weight, source.backbone.layer4[1].conv2.weight)


def test_a_run_that_goes_on_does_not_load_the_weights_again(tmp_path):
    snapshot = shapes(open_store(str(tmp_path / "data")))
    settings = {"model": TINY, "epochs": 3, "pretrained": write(tmp_path / "weights.pth", given())}
    whole = train(snapshot, open_store(str(tmp_path / "whole")), **settings)
    cut = open_store(str(tmp_path / "cut"))
    with pytest.raises(Stopped):
        train(snapshot, cut, report=stop_after(2), **settings)
    (tmp_path / "weights.pth").unlink()
    resumed = train(snapshot, cut, **settings)
    assert resumed["digest"] == whole["digest"]
    assert resumed["notes"] == whole["notes"]
    assert "8 tensors loaded" in whole["notes"][0]
