from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import deeplabv2
from segtasks.plugins import configure


def test_the_parameter_count_is_that_of_the_pytorch_reimplementation():
    with torch.device("meta"):
        net = deeplabv2.build(deeplabv2.Config(), 21)
    assert sum(parameter.numel() for parameter in net.parameters()) == 44_048_532  # github.com/kazuto1011/deeplab-pytorch, ResNet-101


def test_logits_are_the_sum_of_classifiers_at_the_rates_6_12_18_24():
    torch.manual_seed(0)
    net = deeplabv2.build(deeplabv2.Config(backbone="resnet18"), 3)
    features = torch.zeros(1, 512, 65, 65)
    features[:, :, 32, 32] = 1
    for rate, conv in zip((6, 12, 18, 24), net.aspp, strict=True):
        seen = conv(features).abs().sum((0, 1)).nonzero()[:, 0].unique().tolist()
        assert seen == [32 - rate, 32, 32 + rate]

    image = torch.randn(1, 3, 64, 96)
    parts = []
    for kept in range(4):
        alone = copy.deepcopy(net).eval()
        for number, conv in enumerate(alone.aspp):
            if number != kept:
                nn.init.zeros_(conv.weight)
        parts.append(alone(image))
    whole = net.eval()(image)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-5)


def test_the_backbone_stays_at_an_eighth():
    net = deeplabv2.build(deeplabv2.Config(backbone="resnet50"), 2)
    assert net.backbone.strides == (2, 4, 8, 8, 8)
    assert [layer[-1].conv2.dilation for layer in (net.backbone.layer2, net.backbone.layer3, net.backbone.layer4)] == [
        (1, 1),
        (2, 2),
        (4, 4),
    ]
    assert not [module for module in net.aspp.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("options", [{"rates": []}, {"rates": [0, 1]}, {"backbone": "vgg16_bn"}, {"backbone": "resnet152"}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="deeplabv2", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        deeplabv2.build(deeplabv2.Config(), 0)
