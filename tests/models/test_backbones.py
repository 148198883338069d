"""Backbones against what torchvision 0.28.0 has: names, shapes and values were recorded from it (it cannot be loaded beside this torch)."""

from __future__ import annotations

import hashlib
from typing import get_args

import pytest
import torch
from torch import nn

from segtasks.errors import ConfigError
from segtasks.models._backbones import BackboneName, build_backbone

NAMES = get_args(BackboneName)

# tensors, parameters and sha256 of the sorted lines `name 64x3x7x7`, without the classifier (`fc.*`, `classifier.*`); three lines to read
TORCHVISION = {
    "resnet18": (
        120,
        11_176_512,
        "c3f5e2891331203d4004558ff95d288d5ab42577f675f0b9f28890de5c4266ae",
        ("bn1.bias 64", "layer3.0.bn1.bias 256", "layer4.1.conv2.weight 512x512x3x3"),
    ),
    "resnet34": (
        216,
        21_284_672,
        "f687b9da8ff18906add3ec33c4b527e05733f509a102708899aadb7863ce6231",
        ("bn1.bias 64", "layer3.0.downsample.0.weight 256x128x1x1", "layer4.2.conv2.weight 512x512x3x3"),
    ),
    "resnet50": (
        318,
        23_508_032,
        "32b925459ceacdec7c21da93603f3c3c7e016de33e8a797d510fee9d27d01edc",
        ("bn1.bias 64", "layer3.0.conv1.weight 256x512x1x1", "layer4.2.conv3.weight 2048x512x1x1"),
    ),
    "resnet101": (
        624,
        42_500_160,
        "0fe26049342295b478b1011a0f3e9061a7aa338df7aa4d7420141ce14c1cb5e2",
        ("bn1.bias 64", "layer3.17.bn1.bias 256", "layer4.2.conv3.weight 2048x512x1x1"),
    ),
    "vgg16_bn": (
        91,
        14_723_136,
        "7531de524f55f89b2f4c184c9f5c969a3756a619dcc0c7ca186a8ba9e7e68842",
        ("features.0.bias 64", "features.28.num_batches_tracked scalar", "features.8.weight 128"),
    ),
    "mobilenet_v3_large": (
        308,
        2_971_952,
        "2610e569cf749b4514944e470db8accd6d356749cca63981cbccc648f446b45d",
        ("features.0.0.weight 16x3x3x3", "features.2.block.0.1.num_batches_tracked scalar", "features.9.block.2.1.weight 80"),
    ),
    "mobilenet_v3_small": (
        240,
        927_008,
        "2374e012c362ee5a5b97ddaa13cbe50b05e11480feb6c2a2f108c51d5d426abf",
        ("features.0.0.weight 16x3x3x3", "features.4.block.2.fc1.bias 24", "features.9.block.3.1.weight 96"),
    ),
}

# (backbone, output stride): shape, mean and standard deviation of torchvision's last feature map, and the mean of its last pixel, with the
# weights and the image of `_waves`. VGG's is before the last pooling; MobileNet's at 16 is that of torchvision's `dilated=True`.
VALUES = {
    ("resnet18", 32): ((1, 512, 2, 3), 3.16804e08, 3.90323e08, 2.95593e08),
    ("resnet34", 32): ((1, 512, 2, 3), 6.02403e17, 7.35483e17, 5.47464e17),
    ("resnet50", 32): ((1, 2048, 2, 3), 4.26698e12, 5.31752e12, 3.79393e12),
    ("resnet50", 16): ((1, 2048, 4, 6), 3.86235e12, 4.84832e12, 3.10358e12),
    ("resnet50", 8): ((1, 2048, 8, 12), 3.56404e12, 4.57876e12, 2.01281e12),
    ("resnet101", 32): ((1, 2048, 2, 3), 3.01129e28, 3.75293e28, 2.82445e28),
    ("vgg16_bn", 32): ((1, 512, 4, 6), 2.23084e07, 2.95548e07, 1.91800e07),
    ("mobilenet_v3_large", 32): ((1, 960, 2, 3), 2.34060, 3.05693, 2.05014),
    ("mobilenet_v3_large", 16): ((1, 960, 4, 6), 1.29772, 1.84953, 1.09968),
    ("mobilenet_v3_small", 32): ((1, 576, 2, 3), 0.568439, 1.04105, 0.539822),
    ("mobilenet_v3_small", 16): ((1, 576, 4, 6), 0.578742, 1.05200, 0.572149),
}


def _waves(net: nn.Module) -> torch.Tensor:
    """Weights and an image that another program can make again: sine waves in the order of the sorted names."""
    for at, (name, tensor) in enumerate(sorted(net.state_dict().items())):
        if tensor.is_floating_point():
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + at).reshape(tensor.shape)
            if tensor.ndim == 4:
                wave = wave * (4 / tensor[0].numel()) ** 0.5
            elif name.endswith("running_var"):
                wave = 0.75 + 0.25 * wave
            elif name.endswith("weight"):
                wave = 1 + 0.2 * wave
            else:
                wave = 0.1 * wave
            tensor.copy_(wave)
    return torch.sin(torch.arange(3 * 64 * 96, dtype=torch.float64) * 0.37).reshape(1, 3, 64, 96).float()


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_weights_load_with_no_key_left_over(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
    state = backbone.state_dict()
    lines = sorted(f"{key} {'x'.join(str(side) for side in tensor.shape) or 'scalar'}" for key, tensor in state.items())
    tensors, parameters, digest, some = TORCHVISION[name]
    assert (lines[0], lines[len(lines) // 2], lines[-1]) == some
    assert len(lines) == tensors
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [pytest.param(*key, marks=[] if key[0][-2:] == "18" or "bile" in key[0] else pytest.mark.slow) for key in VALUES],
)
def test_features_are_torchvisions(name, output_stride):
    backbone = build_backbone(name, output_stride=output_stride).eval()
    image_NCHW = _waves(backbone)
    with torch.inference_mode():
        features = backbone(image_NCHW)[-1].double()
    shape, *values = VALUES[name, output_stride]
    assert tuple(features.shape) == shape
    assert [features.mean().item(), features.std().item(), features[0, :, -1, -1].mean().item()] == pytest.approx(values, rel=1e-3)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_feature_maps_have_the_channels_and_strides_that_the_backbone_names(name, output_stride):
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=1, output_stride=output_stride)
        found = backbone(torch.empty(1, 1, 64, 96))
    plain = (1, 2, 4, 8, 16) if name == "vgg16_bn" else (2, 4, 8, 16, 32)
    assert backbone.strides == tuple(min(stride, output_stride) for stride in plain)
    assert [tuple(features.shape) for features in found] == [
        (1, channels, 64 // stride, 96 // stride) for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnet18", 8), *(pytest.param(*key, marks=pytest.mark.slow) for key in [("resnet18", 16), ("resnet50", 8), ("resnet50", 16)])],
)
def test_a_dilated_resnet_gives_at_every_position_what_the_strided_one_gives_there(name, output_stride):
    """The atrous equivalence (Chen et al., "DeepLab", section 3.1). On a torus, so that it holds at the borders too."""
    torch.manual_seed(0)
    strided, dilated = (build_backbone(name, output_stride=stride).double().eval() for stride in (32, output_stride))
    dilated.load_state_dict(strided.state_dict())
    for module in (*strided.modules(), *dilated.modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.padding_mode = "circular"
    features = torch.randn(1, strided.channels[2], 8, 16, dtype=torch.float64)  # of stride 8
    finer = 32 // output_stride
    step = 4 // finer  # of stage 3's output, in pixels of `features`
    with torch.inference_mode():
        dense = dilated.layer4(dilated.layer3(features))
        for top in range(finer):
            for left in range(finer):
                there = strided.layer4(strided.layer3(features.roll((-top * step, -left * step), (2, 3))))
                torch.testing.assert_close(dense[:, :, top::finer, left::finer], there)


def _dilations(module: nn.Module) -> list[int]:
    return [conv.dilation[0] for conv in module.modules() if isinstance(conv, nn.Conv2d) and conv.kernel_size[0] > 1]


def test_the_multi_grids_rates_are_the_papers():
    """DeepLabv3, section 3.2.1: at output stride 16 a multi-grid of (1, 2, 4) has rates 2 x (1, 2, 4) in the last stage."""
    with torch.device("meta"):
        at_16 = build_backbone("resnet50", output_stride=16, multi_grid=(1, 2, 4))
        at_8 = build_backbone("resnet101", output_stride=8, multi_grid=(1, 2, 4))
        plain = build_backbone("resnet50", output_stride=8)
    assert _dilations(at_16.layer3) == [1] * 6
    assert _dilations(at_16.layer4) == [2, 4, 8]
    assert _dilations(at_8.layer3) == [1, *[2] * 22]
    assert _dilations(at_8.layer4) == [4, 8, 16]
    assert _dilations(plain.layer4) == [2, 4, 4]


def test_mobilenets_blocks_are_dilated_from_the_one_on_that_would_stride():
    with torch.device("meta"):
        large, small = (build_backbone(name, output_stride=8) for name in ("mobilenet_v3_large", "mobilenet_v3_small"))
    assert _dilations(large) == [1] * 7 + [2] * 6 + [4] * 3  # the first convolution, then a depthwise one a block
    assert _dilations(small) == [1] * 4 + [2] * 5 + [4] * 3


def test_mobilenets_batch_norm_has_the_papers_constants():
    with torch.device("meta"):
        norms = [module for module in build_backbone("mobilenet_v3_small").modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.01)}


def test_a_backbone_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ConfigError, match=r"no backbone is called 'resnet152'; there are resnet18, .*mobilenet_v3_small"):
        build_backbone("resnet152")
    with pytest.raises(ConfigError, match="0 input channels"):
        build_backbone("vgg16_bn", 0)
