from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segtasks.config import Plugin
from segtasks.errors import ConfigError, MissingExtra
from segtasks.models import unet
from segtasks.models._base import Outputs, training_loss
from segtasks.models._overlap import continued, output_size, skip_crop
from segtasks.plugins import configure
from segtasks.testing.models import SLOW, check_model

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


def test_the_papers_net_has_the_parameters_of_the_papers_figure():
    paper = unet.build(unet.Config(width=64, norm="none", upsampling="transpose", padding="valid"), 2, in_channels=1)
    convolutions = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 1024), (1024, 1024)]
    convolutions += [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    up_convolutions = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    figure = sum(9 * a * b + b for a, b in convolutions) + sum(4 * a * b + b for a, b in up_convolutions) + 64 * 2 + 2
    assert len(convolutions) + len(up_convolutions) + 1 == 23  # "in total the network has 23 convolutional layers", section 2
    # github.com/jakeret/tf_unet with layers=5, features_root=64 has as many, and so has gchlebus' implementation, by what both print
    assert parameters(paper) == figure == 31_030_658


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


def test_maps_have_the_sizes_of_the_papers_figure():
    net = unet.build(unet.Config(width=2, norm="none", upsampling="transpose", padding="valid"), 2, in_channels=1).eval()
    entered, left = [], []
    for block in (*net.encoder, *(up.conv for up in net.decoder)):
        block.register_forward_pre_hook(lambda _block, inputs: entered.append(inputs[0].shape[-1]))
        block.register_forward_hook(lambda _block, _inputs, output: left.append(output.shape[-1]))
    with torch.inference_mode():
        net(torch.randn(1, 1, 388, 388))
    assert entered == [572, 284, 140, 68, 32, 56, 104, 200, 392]
    assert left == [568, 280, 136, 64, 28, 52, 100, 196, 388]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_sizes_without_padding_are_the_smallest_that_pool_without_remainder(depth):
    def through(side: int) -> int | None:
        skips = []
        for _ in range(depth):
            side -= 4
            skips.append(side)
            if side <= 0 or side % 2:
                return None
            side //= 2
        side -= 4
        for level in range(1, depth + 1):
            if side <= 0:
                return None
            assert skips[-1] - 2 * side == 2 * skip_crop(level)
            skips.pop()
            side = 2 * side - 4
        return side if side > 0 else None

    reachable = [(out, side) for side in range(1, 700) if (out := through(side))]
    for length in range(1, 150):
        out, side = next(pair for pair in reachable if pair[0] >= length)
        assert output_size(length, depth) == out
        assert continued(torch.zeros(1, 1, length, 1), depth).shape[2] == side


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 40), (60, 33)])
def test_the_image_is_continued_as_numpy_reflects_it(size):
    image = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size)
    margin = 6 * 2**2 - 4
    after = [margin + output_size(side, 2) - side for side in size]
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (margin, after[0]), (margin, after[1])), mode="reflect")
    assert np.array_equal(continued(image, 2).numpy(), expected)


@pytest.mark.parametrize("upsampling", ["bilinear", "transpose"])
def test_far_from_the_border_valid_and_padded_convolutions_give_the_same_logits(upsampling):
    torch.manual_seed(0)
    same = unet.build(unet.Config(width=4, depth=3, upsampling=upsampling), 3).eval()
    valid = unet.build(unet.Config(width=4, depth=3, upsampling=upsampling, padding="valid"), 3).eval()
    valid.load_state_dict(same.state_dict())
    image = torch.randn(1, 3, 162, 170)
    with torch.inference_mode():
        # without padding the grid of the poolings begins two pixels further in
        expected, found = same(image[:, :, 2:, 2:])[:, :, 64:-64, 64:-64], valid(image)[:, :, 66:-64, 66:-64]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(same(image[:, :, 2:, 2:])[:, :, :8], valid(image)[:, :, 2:10, 2:], atol=1e-3)


def test_without_padding_an_even_image_has_even_logits_up_to_its_border():
    torch.manual_seed(0)
    image = torch.full((1, 3, 24, 40), 0.7)
    for padding, spread in [("valid", False), ("same", True)]:
        logits = unet.build(unet.Config(width=4, depth=2, padding=padding), 3).eval()(image)
        assert (logits.std(dim=(2, 3)).max().item() > 1e-4) == spread


@pytest.mark.parametrize(("norm", "upsampling"), [("batch", "bilinear"), ("none", "transpose")])
def test_valid_convolutions_keep_the_contract(norm, upsampling):
    check_model(unet, {"width": 8, "depth": 2, "norm": norm, "upsampling": upsampling, "padding": "valid", "deep_supervision": True})


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_nets_on_a_backbone_keep_the_contract(backbone):
    check_model(unet, {"width": 4, "backbone": backbone, "deep_supervision": True, "dropout": 0.2})


@pytest.mark.slow
@pytest.mark.parametrize("check", SLOW, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "options",
    [
        {"width": 8, "depth": 2, "padding": "valid", "deep_supervision": True},
        {"width": 4, "backbone": "resnet18", "deep_supervision": True},
    ],
    ids=["valid", "backbone"],
)
def test_variants_keep_the_slow_part_of_the_contract(options, check):
    try:
        check(unet, options)
    except MissingExtra as error:
        pytest.skip(f"an extra is missing: {error}")


@pytest.mark.parametrize(
    ("backbone", "features", "skips"),
    [
        ("resnet18", 11_176_512, {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}),
        ("resnet50", 23_508_032, {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048}),
        ("vgg16_bn", 14_723_136, {1: 64, 2: 128, 4: 256, 8: 512, 16: 512}),
        ("mobilenet_v3_large", 2_971_952, {2: 16, 4: 24, 8: 40, 16: 112, 32: 960}),
    ],
)
def test_the_decoder_joins_every_stage_of_a_backbone_at_its_stride(backbone, features, skips):
    with torch.device("meta"):
        net = unet.build(unet.Config(backbone=backbone), 11)
        assert net.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 11, 64, 96)
    assert parameters(net.backbone) == features  # torchvision's without its classifier
    strides = sorted(skips, reverse=True)
    before, expected = skips[strides[0]], 0
    for stride in [stride for stride in (16, 8, 4, 2, 1) if stride < strides[0]]:
        after = 16 * stride
        expected += before * after + after + 9 * (after + skips.get(stride, 0)) * after + 9 * after * after + 4 * after
        before = after
    assert parameters(net) == features + expected + 16 * 11 + 11


def test_deep_supervision_is_the_mean_that_nnu_net_takes():
    torch.manual_seed(0)
    net = unet.build(unet.Config(width=4, depth=3, deep_supervision=True), 3).train()
    image, target = torch.randn(2, 3, 33, 47), torch.randint(0, 3, (2, 33, 47))
    output = net(image)
    assert isinstance(output, Outputs)
    assert {name: logits.shape for name, logits in output.auxiliary.items()} == dict.fromkeys(["level2", "level1"], (2, 3, 33, 47))
    weights = np.array([1, 1 / 2, 1 / 4]) / (1 + 1 / 2 + 1 / 4)
    logits = [output.logits_NCHW, output.auxiliary["level1"], output.auxiliary["level2"]]
    expected = sum(weight * F.cross_entropy(part, target) for weight, part in zip(weights.tolist(), logits, strict=True))
    torch.testing.assert_close(training_loss(net, output, target, F.cross_entropy), expected)
    for head in net.auxiliary.values():
        head.register_forward_hook(lambda *_: pytest.fail("an auxiliary head is computed in eval mode"))
    net.eval()(image)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_auxiliary_logits_are_of_the_pixels_that_the_finest_are_of(padding):
    net = unet.build(unet.Config(width=4, depth=3, padding=padding, deep_supervision=True), 2)
    coarse = 10
    for level in (1, 2):
        lost = 2 * (2**level - 1) if padding == "valid" else 0
        centres = torch.arange(coarse) * 2**level + (2**level - 1) / 2 - lost  # of a coarse pixel, among the finest
        side = coarse
        for _ in range(level):
            side = 2 * side - (4 if padding == "valid" else 0)
        at = net._at_full_size(centres.expand(1, 1, coarse, coarse), level)
        assert at.shape == (1, 1, side, side)
        inside = slice(4, -4)
        torch.testing.assert_close(at[0, 0, 0, inside], torch.arange(side, dtype=torch.float32)[inside])


def test_a_fresh_net_is_the_one_that_it_was_before_it_had_these_options():
    torch.manual_seed(0)
    state = unet.build(unet.Config(width=4, depth=2), 3).state_dict()
    assert list(state)[:2] == ["encoder.0.0.weight", "encoder.0.1.weight"]
    assert {name.split(".")[0] for name in state} == {"encoder", "decoder", "head"}
    assert {".".join(name.split(".")[2:3]) for name in state if name.startswith("decoder")} == {"up", "conv"}


def test_training_on_one_small_image_with_a_backbone_is_refused_with_a_way_out():
    net = unet.build(unet.Config(width=4, backbone="resnet18"), 2).train()
    with pytest.raises(ConfigError, match=r"one image of 20x32.*larger batch_size"):
        net(torch.randn(1, 3, 20, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet18", "padding": "valid"}, "padding: valid is for backbone: none"),
        ({"backbone": "vgg16_bn", "depth": 3}, "depth: 3 is for backbone: none"),
        ({"backbone": "resnet19"}, "resnet18"),
    ],
)
def test_options_that_a_backbone_does_not_have_are_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("models", Plugin(name="unet", options=options))


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
