from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import fastfcn
from segtasks.models._base import Outputs, training_loss
from segtasks.models._jpu import JPU
from segtasks.models._pyramid_pooling import grid_means
from segtasks.plugins import configure
from segtasks.testing.models import check_model, exports_to_onnx_with_equal_argmax

TINY = {"backbone": "resnet18", "width": 16, "codewords": 4}


@pytest.mark.parametrize(
    ("backbone", "head", "parameters"),
    # github.com/wuhuikai/FastFCN with jpu="JPU", aux=True, 59 classes and the stem of torchvision (ResNet's deep_base=False), counted there
    [
        ("resnet50", "fcn", 55_087_030),
        ("resnet50", "psp", 68_722_614),
        ("resnet50", "encnet", 47_270_993),
        ("resnet50", "aspp", 61_759_158),
        ("resnet101", "encnet", 66_263_121),
    ],
)
def test_the_parameter_counts_are_those_of_the_authors_code(backbone, head, parameters):
    with torch.device("meta"):
        net = fastfcn.build(fastfcn.Config(backbone=backbone, head=head), 59)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("head", ["fcn", "psp", "encnet", "aspp"])
def test_every_head_keeps_the_contract(head):
    check_model(fastfcn, {**TINY, "head": head})


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcn", "psp", "aspp"])
def test_every_head_goes_into_onnx(head):
    exports_to_onnx_with_equal_argmax(fastfcn, {**TINY, "head": head})


def test_the_joint_pyramid_is_the_papers():
    """Section 3.3: levels convolved, upsampled to stride 8 and joined; separable convolutions at 1, 2, 4, 8, joined again."""
    torch.manual_seed(0)
    jpu = JPU((3, 4, 5), width=6).eval()
    levels = [torch.randn(2, channels, 24 >> at, 16 >> at) for at, channels in enumerate((3, 4, 5))]
    shrink = (1 + 1e-5) ** -0.5  # BatchNorm with fresh statistics
    wide = [
        F.interpolate((F.conv2d(level, conv[0].weight, padding=1) * shrink).relu(), size=(24, 16), mode="bilinear")
        for conv, level in zip(jpu.lateral, levels, strict=True)
    ]
    joined = torch.cat([wide[2], wide[1], wide[0]], dim=1)
    expected = []
    for conv, rate in zip(jpu.dilated, (1, 2, 4, 8), strict=True):
        depthwise = F.conv2d(joined, conv[0].weight, padding=rate, dilation=rate, groups=18) * shrink
        expected.append((F.conv2d(depthwise, conv[2].weight) * shrink).relu())
    found = jpu(levels)
    assert found.shape == (2, 24, 24, 16)
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6), (7, 13), (12, 4)])
@pytest.mark.parametrize("grid", [1, 2, 3, 6])
def test_grid_means_are_adaptive_average_pooling(size, grid):
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(grid_means(features, grid), F.adaptive_avg_pool2d(features, grid))


def test_encnet_charges_the_classes_present_by_a_fifth_and_the_auxiliary_head_by_two_fifths():
    torch.manual_seed(0)
    net = fastfcn.build(fastfcn.Config(**TINY), 3).train()
    target = torch.tensor([[[0, 0], [2, 255]], [[1, 255], [1, 1]]])
    presence = torch.tensor([[2.0, -1.0, 0.0], [0.5, 0.5, -3.0]])
    logits, auxiliary = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    loss = lambda logits, target: F.cross_entropy(logits, target, ignore_index=255)  # noqa: E731
    yes, no = (lambda x: math.log1p(math.exp(-x))), (lambda x: math.log1p(math.exp(x)))
    expected = (yes(2) + no(-1) + yes(0) + no(0.5) + yes(0.5) + no(-3)) / 6  # image 0 holds classes 0 and 2, image 1 holds class 1
    found = training_loss(net, Outputs(logits, {"auxiliary": auxiliary, "presence": presence}), target, loss)
    torch.testing.assert_close(found, loss(logits, target) + 0.4 * loss(auxiliary, target) + 0.2 * expected)


def test_outputs_in_training_are_those_of_the_head():
    for head, names in (("encnet", {"auxiliary", "presence"}), ("psp", {"auxiliary"})):
        output = fastfcn.build(fastfcn.Config(**TINY, head=head), 3).train()(torch.randn(2, 3, 40, 70))
        assert set(output.auxiliary) == names
        assert output.auxiliary["auxiliary"].shape == output.logits_NCHW.shape == (2, 3, 40, 70)
    bare = fastfcn.build(fastfcn.Config(**TINY, head="fcn", auxiliary_weight=0), 3).train()
    assert isinstance(bare(torch.randn(2, 3, 40, 70)), torch.Tensor)


def test_without_the_presence_loss_its_layer_is_not_there():
    net = fastfcn.build(fastfcn.Config(**TINY, presence_weight=0), 3).train()
    assert not [name for name in net.state_dict() if "presence" in name]
    assert set(net(torch.randn(2, 3, 40, 70)).auxiliary) == {"auxiliary"}


@pytest.mark.parametrize(
    "options", [{"head": "deeplab"}, {"width": 1}, {"codewords": 0}, {"presence_weight": -1}, {"backbone": "vgg16_bn"}]
)
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="fastfcn", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        fastfcn.build(fastfcn.Config(), 0)
