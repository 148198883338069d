from __future__ import annotations

import pytest
import torch
from torch import nn

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import deeplabv1
from segtasks.models._backbones import build_backbone
from segtasks.plugins import configure


def test_the_parameter_count_is_the_papers_and_batch_norms():
    with torch.device("meta"):
        net = deeplabv1.build(deeplabv1.Config(), 21)
    norms = sum(p.numel() for module in net.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters())
    total = sum(parameter.numel() for parameter in net.parameters())
    assert norms == 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
    assert total - norms == 20_505_429  # table 2 of the paper: 20.5 M for LargeFOV with a 3x3 kernel


@pytest.mark.parametrize(("output_stride", "strides"), [(8, (1, 2, 4, 8, 8)), (16, (1, 2, 4, 8, 16)), (32, (1, 2, 4, 8, 16))])
def test_an_atrous_vgg_keeps_its_resolution_and_torchvisions_names(output_stride, strides):
    plain, atrous = build_backbone("vgg16_bn"), build_backbone("vgg16_bn", output_stride=output_stride)
    atrous.load_state_dict(plain.state_dict(), strict=True)
    found = atrous.eval()(torch.zeros(1, 3, 64, 32))
    assert atrous.strides == strides
    assert [tuple(features.shape) for features in found] == [
        (1, channels, 64 // stride, 32 // stride) for channels, stride in zip(atrous.channels, strides, strict=True)
    ]


def test_every_second_pixel_of_an_atrous_stage_is_that_of_the_strided_one():
    """The hole algorithm, section 2.1 of the paper."""
    torch.manual_seed(0)
    plain, atrous = build_backbone("vgg16_bn").eval(), build_backbone("vgg16_bn", output_stride=8).eval()
    atrous.load_state_dict(plain.state_dict())
    features = torch.randn(1, 512, 12, 10)
    with torch.inference_mode():
        dense = atrous.stage(4, features.clone())
        strided = plain.stage(4, features[:, :, ::2, ::2].clone())
    torch.testing.assert_close(dense[:, :, ::2, ::2], strided)


def test_both_last_poolings_keep_the_size_and_fc6_reads_at_its_rate():
    net = deeplabv1.build(deeplabv1.Config(channels=4), 2)
    kernels = [(pool.kernel_size, pool.stride) for pool in net.modules() if isinstance(pool, nn.MaxPool2d)]
    assert kernels == [(2, 2)] * 3 + [(3, 1)] * 2
    assert net.fc6(torch.zeros(1, 512, 5, 7)).shape == (1, 4, 5, 7)
    features = torch.zeros(1, 512, 49, 49)
    features[:, :, 24, 24] = 1
    seen = (net.fc6(features) - net.fc6(torch.zeros_like(features))).abs().sum((0, 1)).nonzero().tolist()
    assert seen == [[row, column] for row in (12, 24, 36) for column in (12, 24, 36)]


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    net = deeplabv1.build(deeplabv1.Config(channels=16), 2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    image = torch.randn(2, 3, 32, 32)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


@pytest.mark.parametrize("options", [{"channels": 0}, {"rate": 0}, {"dropout": 1.0}, {"backbone": "resnet50"}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="deeplabv1", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        deeplabv1.build(deeplabv1.Config(), 0)
