from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import bisenet_v2
from segtasks.models._base import Outputs, training_loss
from segtasks.plugins import configure
from segtasks.testing.models import check_model


def small(classes: int = 3, **options) -> nn.Module:
    torch.manual_seed(0)
    return bisenet_v2.build(bisenet_v2.Config(**{**bisenet_v2.SMALL, **options}), classes)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def normed(before: int, after: int, kernel: int, groups: int = 1) -> int:
    """Parameters of a convolution without bias and its BatchNorm."""
    return kernel * kernel * before // groups * after + 2 * after


def gather_expand(before: int, after: int, wide: int, stride: int) -> int:
    keep = normed(before, before, 3) + normed(before, wide, 3, before) + normed(wide, after, 1)
    if stride == 1:
        return keep
    return keep + normed(wide, wide, 3, wide) + normed(before, before, 3, before) + normed(before, after, 1)


def counted(classes: int, width: float, depth: int, ratio: float, expansion: int, head: int) -> int:
    """Parameters at prediction, from the paper's table 1 and figures 4 to 7."""
    c64, c128 = int(64 * width), int(128 * width)
    stem, third = int(ratio * c64), int(ratio * c128)
    detail = normed(3, c64, 3) + 4 * normed(c64, c64, 3) + normed(c64, c128, 3) + 2 * normed(c128, c128, 3)
    semantic = normed(3, stem, 3) + normed(stem, stem // 2, 1) + normed(stem // 2, stem, 3) + normed(2 * stem, stem, 3)
    for before, after, repeats in [(stem, third, depth), (third, c64, depth), (c64, c128, 3 * depth)]:
        semantic += gather_expand(before, after, expansion * before, 2) + repeats * gather_expand(after, after, expansion * after, 1)
    context = 2 * c128 + normed(c128, c128, 1) + normed(c128, c128, 3)
    keep = normed(c128, c128, 3, c128) + c128 * c128
    aggregation = 2 * keep + 3 * normed(c128, c128, 3)
    return detail + semantic + context + aggregation + normed(c128, head, 3) + head * classes + classes


def test_parameters_at_prediction_are_those_of_the_reference_code():
    net = bisenet_v2.build(bisenet_v2.Config(), 19)
    assert parameters(net) - parameters(net.booster) == 3_358_627  # github.com/CoinCheung/BiSeNet, BiSeNetV2(19, aux_mode="eval"), counted
    assert parameters(bisenet_v2.build(bisenet_v2.Config(booster=False), 19)) == 3_358_627
    assert [parameters(part) for part in (net.detail, net.aggregation, net.head)] == [519_232, 478_720, 1_201_171]  # there too


@pytest.mark.parametrize(
    ("width", "depth", "ratio", "expansion", "head"),
    [(1.0, 1, 0.25, 6, 1024), (2.0, 3, 0.25, 6, 1024), (1.0, 1, 0.5, 4, 256), (0.5, 2, 0.125, 2, 64)],
)
def test_the_parameter_count_is_what_the_papers_table_gives(width, depth, ratio, expansion, head):
    config = bisenet_v2.Config(width=width, depth=depth, ratio=ratio, expansion=expansion, head_channels=head, booster=False)
    assert parameters(bisenet_v2.build(config, 19)) == counted(19, width, depth, ratio, expansion, head)


def test_stages_have_the_channels_and_strides_of_the_papers_table():
    net = bisenet_v2.build(bisenet_v2.Config(), 19).eval()
    image = torch.randn(1, 3, 64, 128)
    with torch.inference_mode():
        found = []
        features = image
        for part in (*net.detail, net.stem, net.stage3, net.stage4, net.stage5, net.context):
            features = part(image if part is net.stem else features)
            found.append((features.shape[1], 64 // features.shape[2], 128 // features.shape[3]))
    detail, semantic = found[:3], found[3:]
    assert detail == [(64, 2, 2), (64, 4, 4), (128, 8, 8)]
    assert semantic == [(16, 4, 4), (32, 8, 8), (64, 16, 16), (128, 32, 32), (128, 32, 32)]
    assert [len(stage) for stage in (net.stage3, net.stage4, net.stage5)] == [2, 2, 4]


def test_large_is_twice_as_wide_and_three_times_as_deep_where_the_size_is_kept():
    net = bisenet_v2.build(bisenet_v2.Config(width=2, depth=3), 19)
    assert [len(stage) for stage in (net.stage3, net.stage4, net.stage5)] == [1 + 3, 1 + 3, 1 + 9]
    assert net.head[0].in_channels == 256


def test_the_ratio_is_of_the_first_two_semantic_stages_alone():
    with torch.inference_mode():
        image = torch.randn(1, 3, 32, 32)
        for ratio, channels in [(0.5, [32, 64, 64, 128]), (0.125, [8, 16, 64, 128])]:
            net = bisenet_v2.build(bisenet_v2.Config(ratio=ratio), 2).eval()
            features, found = image, []
            for part in (net.stem, net.stage3, net.stage4, net.stage5):
                features = part(features)
                found.append(features.shape[1])
            assert found == channels


def test_booster_heads_are_in_training_alone():
    net = small()
    image = torch.randn(2, 3, 33, 47)
    output = net.train()(image)
    assert isinstance(output, Outputs)
    assert {name: logits.shape for name, logits in output.auxiliary.items()} == dict.fromkeys(bisenet_v2.BOOSTED, (2, 3, 33, 47))
    for head in net.booster.values():
        head.register_forward_hook(lambda *_: pytest.fail("a booster head is computed in eval mode"))
    net.eval()(image)


def test_booster_heads_cost_what_the_logits_cost():
    net = small(dropout=0.0).train()
    image, target = torch.randn(2, 3, 33, 47), torch.randint(0, 3, (2, 33, 47))
    output = net(image)
    parts = [F.cross_entropy(logits, target) for logits in (output.logits_NCHW, *output.auxiliary.values())]
    assert len(parts) == 5
    torch.testing.assert_close(training_loss(net, output, target, F.cross_entropy), sum(parts))


def test_without_the_booster_training_gives_logits_alone():
    assert small(booster=False).train()(torch.randn(2, 3, 32, 32)).shape == (2, 3, 32, 32)


def test_the_semantic_branch_can_shut_the_detail_branch_out():
    net = small().eval()
    detail, other, semantic = torch.randn(1, 32, 8, 8), torch.randn(1, 32, 8, 8), torch.randn(1, 32, 2, 2)
    gates = net.aggregation
    with torch.inference_mode():
        assert not torch.equal(gates(detail, semantic), gates(other, semantic))
        for conv in (gates.semantic_up[0], gates.semantic_keep[1]):
            conv.weight.zero_()
        gates.semantic_up[1].bias.fill_(-200)  # the gate of the fine features: sigmoid is 0
        fine = gates.detail_keep(detail)
        assert fine.abs().max() > 0
        expected = gates.fuse(F.interpolate(gates.detail_down(detail) * 0.5, size=(8, 8), mode="bilinear"))
        torch.testing.assert_close(gates(detail, semantic), expected)


def test_the_context_embedding_carries_a_change_at_one_corner_to_the_other():
    net = small().eval()
    features = torch.rand(1, 32, 9, 9)
    changed = features.clone()
    changed[:, :, 0, 0] += 50
    with torch.inference_mode():
        assert not torch.equal(net.context(features)[:, :, -1, -1], net.context(changed)[:, :, -1, -1])


def test_all_parameters_get_a_gradient_but_shifts_that_the_next_batch_norm_undoes():
    net = small(5).train()
    image, target = torch.randn(2, 3, 33, 47), torch.randint(0, 5, (2, 33, 47))
    training_loss(net, net(image), target, F.cross_entropy).backward()
    still = [name for name, parameter in net.named_parameters() if not (torch.isfinite(parameter.grad).all() and parameter.grad.any())]
    assert set(still) <= {"context.mean.0.bias", *(f"stage{number}.0.shortcut.0.1.bias" for number in (3, 4, 5))}


def test_large_keeps_the_contract():
    check_model(bisenet_v2, {**bisenet_v2.SMALL, "width": 0.125, "depth": 3, "booster": False})


@pytest.mark.parametrize("options", [{"width": 0}, {"ratio": 2}, {"depth": 0}, {"boosters": True}])
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="bisenet_v2", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        bisenet_v2.build(bisenet_v2.Config(), 0)
