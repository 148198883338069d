from __future__ import annotations

import pytest
import torch

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import deeplabv3plus
from segtasks.plugins import configure
from segtasks.testing.models import check_model

RESNET50 = 23_508_032  # torchvision's resnet50 without its classifier of 2,049,000


def parameters(classes=21, **options):
    with torch.device("meta"):
        net = deeplabv3plus.build(deeplabv3plus.Config(**options), classes)
    return sum(parameter.numel() for parameter in net.parameters())


def test_with_plain_convolutions_the_count_is_that_of_the_pytorch_reimplementation():
    # github.com/jfzhang95/pytorch-deeplab-xception, DeepLab(backbone="resnet", num_classes=21), which is ResNet-101
    assert parameters(backbone="resnet101", separable=False) == 59_344_309


def test_with_separable_convolutions_the_count_is_what_arithmetic_gives():
    def plain(before, after):
        return before * after + 2 * after

    def separable(before, after):
        return 9 * before + 2 * before + plain(before, after)

    aspp = 2 * plain(2048, 256) + 3 * separable(2048, 256) + plain(5 * 256, 256)
    decoder = plain(256, 48) + separable(304, 256) + separable(256, 256)
    assert parameters() == RESNET50 + aspp + decoder + 257 * 21 == 26_696_133


def test_the_decoder_works_at_a_quarter_with_48_low_level_channels():
    net = deeplabv3plus.build(deeplabv3plus.Config(backbone="resnet18", channels=8), 3).eval()
    seen = {}
    for name in ("aspp", "low_level", "decoder"):
        getattr(net, name).register_forward_hook(lambda _, given, result, name=name: seen.update({name: (given[0].shape, result.shape)}))
    net(torch.zeros(2, 3, 64, 96))
    assert seen == {
        "aspp": ((2, 512, 4, 6), (2, 8, 4, 6)),
        "low_level": ((2, 64, 16, 24), (2, 48, 16, 24)),
        "decoder": ((2, 56, 16, 24), (2, 8, 16, 24)),
    }


def test_rates_double_at_output_stride_8():
    with torch.device("meta"):
        coarse, fine = (deeplabv3plus.build(deeplabv3plus.Config(output_stride=stride), 2) for stride in (16, 8))
    for net, rates in ((coarse, (6, 12, 18)), (fine, (12, 24, 36))):
        assert tuple(conv[0][0].dilation[0] for conv in net.aspp.convs[1:4]) == rates
        assert all(conv[0][0].groups == 2048 for conv in net.aspp.convs[1:4])


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "resnet18", "output_stride": 8, "separable": False},
        {"backbone": "mobilenet_v3_large"},
        {"backbone": "mobilenet_v3_small"},
    ],
)
def test_every_variant_keeps_the_contract(options):
    check_model(deeplabv3plus, {"channels": 16, **options})


@pytest.mark.parametrize("options", [{"output_stride": 32}, {"multi_grid": [1, 2]}, {"separable": "yes, please"}, {"channels": 0}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="deeplabv3plus", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        deeplabv3plus.build(deeplabv3plus.Config(), 0)
