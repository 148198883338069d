from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import unet
from segtasks.plugins import configure
from segtasks.testing.models import check_model

VARIANTS = list(itertools.product(["batch", "group", "none"], ["bilinear", "transpose"]))


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def counted(width: int, depth: int, norm: str, upsampling: str, classes: int, channels: int) -> int:
    """Parameters by arithmetic: a k x k layer a -> b has k k a b weights, b biases where it has them, and a norm 2 b."""
    after_conv = {"batch": 2, "group": 2, "none": 1}[norm]
    double = lambda a, b: 9 * a * b + 9 * b * b + 2 * after_conv * b  # noqa: E731
    levels = [width * 2**level for level in range(depth + 1)]
    total = sum(double(a, b) for a, b in zip([channels, *levels[:-1]], levels, strict=True))
    for c in levels[1:]:
        taps = 4 if upsampling == "transpose" else 1
        total += taps * c * (c // 2) + c // 2 + double(c, c // 2)
    return total + width * classes + classes


@pytest.mark.parametrize(("norm", "upsampling"), VARIANTS)
@pytest.mark.parametrize(("width", "depth", "classes", "channels"), [(16, 4, 11, 3), (8, 1, 2, 1), (12, 3, 5, 4)])
def test_the_parameter_count_is_what_arithmetic_gives(norm, upsampling, width, depth, classes, channels):
    net = unet.build(unet.Config(width=width, depth=depth, norm=norm, upsampling=upsampling), classes, channels)
    assert parameters(net) == counted(width, depth, norm, upsampling, classes, channels)


def test_at_width_64_the_parameter_counts_are_the_published_ones():
    paper = unet.build(unet.Config(width=64, norm="none", upsampling="transpose"), 1, in_channels=1)
    assert parameters(paper) == 31_030_593  # as printed by many summaries of the paper's net with one input and one output channel
    with_norm = unet.build(unet.Config(width=64, upsampling="transpose"), 1, in_channels=3)
    assert parameters(with_norm) == 31_037_633  # github.com/milesial/Pytorch-UNet, bilinear=False, convolutions without bias


@pytest.mark.parametrize(("norm", "upsampling"), VARIANTS)
def test_every_variant_keeps_the_contract(norm, upsampling):
    check_model(unet, {"width": 8, "depth": 2, "norm": norm, "upsampling": upsampling, "dropout": 0.2})


def test_convolving_before_bilinear_upsampling_equals_convolving_after_it():
    torch.manual_seed(0)
    up = unet.build(unet.Config(width=4, depth=1, upsampling="bilinear"), 2).decoder[0].up
    features = torch.randn(1, 8, 5, 6)
    convolve, upsample = up
    torch.testing.assert_close(up(features), convolve(upsample(features)))


def test_padding_repeats_the_edge_and_is_cropped_away():
    torch.manual_seed(0)
    net = unet.build(unet.Config(width=4, depth=3), 2).eval()
    image = torch.randn(1, 3, 13, 22)
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (0, 3), (0, 2)), mode="edge"))
    with torch.inference_mode():
        assert torch.equal(net(image), net(padded)[:, :, :13, :22])


def test_batch_norm_can_be_folded_into_the_convolution_before_it():
    torch.manual_seed(0)
    net = unet.build(unet.Config(width=8, depth=2), 3)
    for _ in range(3):
        net.train()(torch.randn(4, 3, 32, 32) * 2 + 1)
    net.eval()
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        before = net(image)
    for block in net.modules():
        if isinstance(block, nn.Sequential):
            for index, layer in enumerate(block):
                if isinstance(layer, nn.BatchNorm2d):
                    block[index - 1] = fuse_conv_bn_eval(block[index - 1], layer)
                    block[index] = nn.Identity()
    assert not [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.inference_mode():
        torch.testing.assert_close(net(image), before, rtol=1e-4, atol=1e-4)


def test_training_on_one_image_that_shrinks_to_a_pixel_is_refused_with_a_way_out():
    net = unet.build(unet.Config(width=4, depth=3), 2).train()
    with pytest.raises(ConfigError, match=r"one image of 5x8.*norm: group"):
        net(torch.randn(1, 3, 5, 8))
    assert net(torch.randn(2, 3, 5, 8)).shape == (2, 2, 5, 8)
    assert net(torch.randn(1, 3, 5, 9)).shape == (1, 2, 5, 9)
    grouped = unet.build(unet.Config(width=4, depth=3, norm="group"), 2).train()
    assert grouped(torch.randn(1, 3, 5, 8)).shape == (1, 2, 5, 8)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    net = unet.build(unet.Config(width=4, depth=1, norm="none", dropout=0.5), 2)
    image = torch.randn(1, 3, 16, 16)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


@pytest.mark.parametrize("options", [{"depth": 0}, {"width": 0}, {"dropout": 1.0}, {"norm": "layer"}, {"witdh": 8}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="unet", options=options))


def test_a_typo_in_an_option_is_answered_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        configure("models", Plugin(name="unet", options={"witdh": 8}))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        unet.build(unet.Config(), 0)
