from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import fast_scnn
from segtasks.models._base import Outputs, training_loss
from segtasks.plugins import configure
from segtasks.testing.models import check_model


def built(classes: int = 3, **options) -> nn.Module:
    torch.manual_seed(0)
    return fast_scnn.build(fast_scnn.Config(**options), classes)


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_the_parameter_count_is_the_papers_without_batch_norm():
    net = built(19, auxiliary=False)
    norms = parameters(*(layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)))
    separable = lambda before, after: 9 * before + before * after  # noqa: E731
    bottlenecks = [(64, 64), (64, 64), (64, 64), (64, 96), (96, 96), (96, 96), (96, 128), (128, 128), (128, 128)]
    tables = 9 * 3 * 32 + separable(32, 48) + separable(48, 64)
    tables += sum(6 * before * before + 9 * 6 * before + 6 * before * after for before, after in bottlenecks)
    tables += 4 * 128 * 32 + 256 * 128
    tables += 9 * 128 + 128 * 128 + 64 * 128
    tables += 2 * separable(128, 128) + 128 * 19 + 19
    assert parameters(net) - norms == tables == 1_114_115
    assert round(tables / 1e6, 2) == 1.11  # the paper, sections 1 and 4.1
    # github.com/Tramac/Fast-SCNN-pytorch has 1,138,051: four BatchNorms within separable convolutions, two biases in the fusion
    assert parameters(net) == 1_138_051 - 2 * (32 + 48 + 128 + 128) - 2 * 128


def test_auxiliary_heads_have_the_reference_codes_size():
    net = built(19)
    assert parameters(net.auxiliary["downsampled"]) == 1_157_174 - 1_138_051  # Tramac's FastSCNN(19, aux=True) against aux=False
    assert parameters(net.auxiliary["extracted"]) == 9 * 128 * 32 + 2 * 32 + 32 * 19 + 19


def test_modules_have_the_shapes_of_the_papers_table():
    net = built().eval()
    found = []
    for part in (*net.downsample, *[net.extract[number] for number in (2, 5, 8)], net.extract[-1], net.fuse, net.classify):
        part.register_forward_hook(lambda _part, _inputs, output: found.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        net(torch.randn(1, 3, 256, 512))  # a quarter of the table's 1024x2048
    assert found == [
        (32, 128, 256),
        (48, 64, 128),
        (64, 32, 64),
        (64, 16, 32),
        (96, 8, 16),
        (128, 8, 16),
        (128, 8, 16),
        (128, 32, 64),
        (3, 32, 64),
    ]


def test_only_the_skip_connection_tells_pixels_of_one_coarse_cell_apart():
    net = built().eval()
    fine = torch.randn(1, 64, 32, 32)
    coarse = torch.randn(1, 128, 1, 1).expand(1, 128, 8, 8)
    with torch.inference_mode():
        with_skip = net.fuse(fine, coarse)[:, :, 8:24, 8:24]  # away from the borders: dilation 4
        net.fuse.fine[0].weight.zero_()
        without = net.fuse(fine, coarse)[:, :, 8:24, 8:24]
    assert with_skip.std(dim=(2, 3)).mean() > 0.1
    torch.testing.assert_close(without, without[:, :, :1, :1].expand_as(without))


def test_the_fused_features_reach_four_pixels_around():
    net = built().eval()
    fine, coarse = torch.zeros(1, 64, 32, 32), torch.zeros(1, 128, 32, 32)
    with torch.inference_mode():
        before = net.fuse.coarse(coarse)
        coarse[:, :, 16, 16] = 1
        changed = (net.fuse.coarse(coarse) != before).any(1)[0].nonzero()
    assert {tuple(place) for place in changed.tolist()} == {(16 + y, 16 + x) for y in (-4, 0, 4) for x in (-4, 0, 4)}
    assert net.fuse(fine, coarse).shape == (1, 128, 32, 32)


def test_nothing_stands_between_depthwise_and_pointwise_convolution():
    kinds = [type(layer).__name__ for layer in built().downsample[1]]
    assert kinds == ["Conv2d", "Conv2d", "BatchNorm", "ReLU"]


def test_bottlenecks_are_linear_and_residual_where_shapes_agree():
    net = built()
    bottlenecks = list(net.extract)[:9]
    assert [block.residual for block in bottlenecks] == [False, True, True] * 3
    assert all(isinstance(block.layers[-1], nn.BatchNorm2d) for block in bottlenecks)


def test_auxiliary_heads_are_in_training_alone_and_cost_two_fifths():
    net = built(dropout=0.0).train()
    image, target = torch.randn(2, 3, 33, 47), torch.randint(0, 3, (2, 33, 47))
    output = net(image)
    assert isinstance(output, Outputs)
    costs = [F.cross_entropy(logits, target) for logits in (output.logits_NCHW, *output.auxiliary.values())]
    assert len(costs) == 3
    torch.testing.assert_close(training_loss(net, output, target, F.cross_entropy), costs[0] + 0.4 * (costs[1] + costs[2]))
    for head in net.auxiliary.values():
        head.register_forward_hook(lambda *_: pytest.fail("an auxiliary head is computed in eval mode"))
    assert net.eval()(image).shape == (2, 3, 33, 47)


def test_without_auxiliary_heads_the_contract_is_kept():
    check_model(fast_scnn, {"auxiliary": False})


@pytest.mark.parametrize("options", [{"dropout": 1}, {"aux": True}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="fast_scnn", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        fast_scnn.build(fast_scnn.Config(), 0)
