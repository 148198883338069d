from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import segnet
from segtasks.plugins import configure
from segtasks.testing import models

# (channels in, channels out) of the 3x3 convolutions of the authors' Models/segnet_train.prototxt, github.com/alexgkendall/SegNet-Tutorial
ENCODER = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), *[(512, 512)] * 5]
DECODER = [*[(512, 512)] * 5, (512, 256), (256, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]


def small(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return segnet.build(segnet.Config(**segnet.SMALL), classes)


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    with torch.device("meta"):
        return segnet.build(segnet.Config(), 11)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_layers_are_those_of_the_authors_network_file(whole):
    convolutions = [(layer.in_channels, layer.out_channels) for layer in whole.modules() if isinstance(layer, nn.Conv2d)]
    assert convolutions == [*ENCODER, *DECODER, (64, 11)]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in whole.modules()) == len(ENCODER) + len(DECODER)  # conv1_1_D has none


def test_the_parameter_count_is_the_published_one(whole):
    counted = sum(9 * before * after + after + 2 * after for before, after in ENCODER + DECODER)
    assert parameters(whole) == counted + 9 * 64 * 11 + 11 == 29_449_355
    with torch.device("meta"):
        assert parameters(segnet.build(segnet.Config(), 1)) == 29_443_585  # as the authors of a U-SegNet comparison print it for one class
    # Paszke et al., ENet (arXiv 1606.02147), table 2, give SegNet 29.46 million: as many at Pascal's 21 classes
    with torch.device("meta"):
        assert round(parameters(segnet.build(segnet.Config(), 21)) / 1e6, 2) == 29.46


@pytest.mark.parametrize("size", [(6, 10), (7, 9), (1, 1)])
def test_unpooling_equals_torchs(size):
    torch.manual_seed(0)
    features, place = F.max_pool2d(torch.randn(2, 3, *size).relu(), 2, ceil_mode=True, return_indices=True)
    other = torch.randn_like(features)
    assert torch.equal(segnet.unpool(other, place, size), F.max_unpool2d(other, place, 2, output_size=size))


def test_odd_sides_are_pooled_and_unpooled_as_in_the_authors_network_file():
    net = small().eval()
    found = []
    for stage in net.decoder:
        stage.register_forward_pre_hook(lambda _stage, inputs: found.append(tuple(inputs[0].shape[-2:])))
    with torch.inference_mode():
        net(torch.randn(1, 3, 360, 480))
    assert found == [(23, 30), (45, 60), (90, 120), (180, 240), (360, 480)]  # upsample_h and upsample_w of upsample5 and upsample4 first


def test_every_decoder_stage_begins_with_zeros_where_no_maximum_was():
    net = small().eval()
    found = []
    for stage in net.decoder:
        stage.register_forward_pre_hook(lambda _stage, inputs: found.append(inputs[0]))
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        net(image)
        features = image
        for number, sparse in enumerate(reversed(found)):
            features = net.backbone.stage(number, features)
            pooled, place = F.max_pool2d(features, 2, return_indices=True)
            elsewhere = torch.ones_like(sparse, dtype=torch.bool).flatten(2).scatter(2, place.flatten(2), value=False).view(sparse.shape)
            assert sparse.shape == features.shape
            assert elsewhere.float().mean() == 0.75
            assert not sparse[elsewhere].any()
            features = pooled
    assert [stage.shape[-1] for stage in found] == [6, 12, 24, 48, 96]


def test_the_decoder_sees_where_maxima_were_and_nothing_else_of_the_encoder():
    net = small().eval()
    coarse = torch.randn(1, 64, 4, 4)
    with torch.inference_mode():
        _, first = F.max_pool2d(torch.randn(1, 64, 8, 8), 2, return_indices=True)
        _, second = F.max_pool2d(torch.randn(1, 64, 8, 8), 2, return_indices=True)
        assert not torch.equal(net.decoder[0](segnet.unpool(coarse, first, (8, 8))), net.decoder[0](segnet.unpool(coarse, second, (8, 8))))
        features = torch.rand(1, 8, 32, 32)
        places = [F.max_pool2d(scale * features, 2, return_indices=True)[1] for scale in (1, 7)]
        assert torch.equal(*places)


def test_vgg16s_parameters_have_torchvisions_names(whole):
    names = [name for name, _ in whole.backbone.named_parameters()]
    assert names[:4] == ["features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias"]
    assert parameters(whole.backbone) == 14_723_136  # torchvision's vgg16_bn without its classifier


def test_small_keeps_the_contract():
    models.check_model(segnet, {"width": 4})


@pytest.mark.slow
def test_a_trained_nets_classes_agree_in_bfloat16():
    torch.manual_seed(0)
    image, target = models._shapes(8)
    net = small().train()
    steps = 90
    optimizer = torch.optim.AdamW(net.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(image), target).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rates.step()
    net.eval()
    with torch.inference_mode():
        exact = net(image).argmax(1)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(image).argmax(1)
    assert (exact == target).float().mean() > 0.9
    assert (rough == exact).float().mean() > 0.98


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 4}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="segnet", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        segnet.build(segnet.Config(), 0)
