from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import deeplabv3
from segtasks.models._aspp import ASPP
from segtasks.models._base import Outputs, training_loss
from segtasks.plugins import configure
from segtasks.testing.models import check_model

TORCHVISION = {"output_stride": 8, "multi_grid": (1, 1, 1)}


def built(classes=21, **options):
    with torch.device("meta"):
        return deeplabv3.build(deeplabv3.Config(**options), classes)


@pytest.mark.parametrize(
    ("backbone", "parameters"),  # num_params of torchvision's COCO_WITH_VOC_LABELS_V1, auxiliary head included
    [("resnet50", 42_004_074), ("resnet101", 60_996_202), ("mobilenet_v3_large", 11_029_328)],
)
def test_the_parameter_counts_are_torchvisions(backbone, parameters):
    assert sum(parameter.numel() for parameter in built(backbone=backbone, **TORCHVISION).parameters()) == parameters


@pytest.mark.parametrize("backbone", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_on_a_mobilenet_it_keeps_the_contract(backbone):
    check_model(deeplabv3, {"backbone": backbone, "channels": 16})


def test_the_heads_have_torchvisions_names_and_shapes():
    norm = {"weight": (256,), "bias": (256,), "running_mean": (256,), "running_var": (256,), "num_batches_tracked": ()}
    expected = {}
    for convolution, follows, shape in [
        ("classifier.0.convs.0.0", "classifier.0.convs.0.1", (256, 2048, 1, 1)),
        ("classifier.0.convs.1.0", "classifier.0.convs.1.1", (256, 2048, 3, 3)),
        ("classifier.0.convs.2.0", "classifier.0.convs.2.1", (256, 2048, 3, 3)),
        ("classifier.0.convs.3.0", "classifier.0.convs.3.1", (256, 2048, 3, 3)),
        ("classifier.0.convs.4.1", "classifier.0.convs.4.2", (256, 2048, 1, 1)),
        ("classifier.0.project.0", "classifier.0.project.1", (256, 1280, 1, 1)),
        ("classifier.1", "classifier.2", (256, 256, 3, 3)),
        ("aux_classifier.0", "aux_classifier.1", (256, 1024, 3, 3)),
    ]:
        expected[f"{convolution}.weight"] = shape
        expected.update({f"{follows}.{name}": size for name, size in norm.items()})
    for name in ("classifier.4", "aux_classifier.4"):
        expected[f"{name}.weight"], expected[f"{name}.bias"] = (21, 256, 1, 1), (21,)
    found = {name: tuple(tensor.shape) for name, tensor in built(**TORCHVISION).state_dict().items() if not name.startswith("backbone.")}
    assert found == expected


@pytest.mark.parametrize(
    ("stride", "strides", "grid", "rates"), [(16, (4, 8, 16, 16), (2, 4, 8), (6, 12, 18)), (8, (4, 8, 8, 8), (4, 8, 16), (12, 24, 36))]
)
def test_dilations_follow_the_output_stride(stride, strides, grid, rates):
    """Sections 3.2.1 and 3.3: unit rates 1, 2, 4 times the stage's; ASPP's rates double at output stride 8."""
    net = built(output_stride=stride)
    assert net.backbone.strides[1:] == strides
    assert tuple(block.conv2.dilation[0] for block in net.backbone.layer4) == grid
    assert tuple(conv[0].dilation[0] for conv in net.classifier[0].convs[1:4]) == rates


def test_aspp_is_the_concatenation_of_its_branches_projected():
    torch.manual_seed(0)
    aspp = ASPP(6, 4, (2, 3), dropout=0.5).eval()
    features = torch.randn(2, 6, 9, 11)
    shrink = (1 + 1e-5) ** -0.5  # BatchNorm with fresh statistics
    one, two, three, (_, pooled, *_) = aspp.convs
    branches = [
        F.conv2d(features, one[0].weight),
        F.conv2d(features, two[0].weight, padding=2, dilation=2),
        F.conv2d(features, three[0].weight, padding=3, dilation=3),
        F.conv2d(features.mean((2, 3), keepdim=True), pooled.weight).repeat(1, 1, 9, 11),
    ]
    joined = torch.cat([(branch * shrink).relu() for branch in branches], dim=1)
    torch.testing.assert_close(aspp(features), (F.conv2d(joined, aspp.project[0].weight) * shrink).relu())


def test_the_auxiliary_head_is_there_in_training_and_weighs_as_said():
    torch.manual_seed(0)
    net = deeplabv3.build(deeplabv3.Config(backbone="resnet18", channels=8, auxiliary_weight=0.25), 3)
    image, target = torch.randn(2, 3, 33, 40), torch.randint(0, 3, (2, 33, 40))
    output = net.train()(image)
    assert isinstance(output, Outputs)
    auxiliary = output.auxiliary["auxiliary"]
    assert output.logits_NCHW.shape == auxiliary.shape == (2, 3, 33, 40)
    expected = F.cross_entropy(output.logits_NCHW, target) + 0.25 * F.cross_entropy(auxiliary, target)
    torch.testing.assert_close(training_loss(net, output, target, F.cross_entropy), expected)
    assert isinstance(net.eval()(image), torch.Tensor)


def test_without_the_auxiliary_weight_there_is_no_auxiliary_head():
    net = deeplabv3.build(deeplabv3.Config(backbone="resnet18", channels=8, auxiliary_weight=0), 3)
    assert not [name for name in net.state_dict() if name.startswith("aux")]
    assert isinstance(net.train()(torch.randn(2, 3, 16, 16)), torch.Tensor)


def test_training_on_one_tiny_image_is_possible():
    """ASPP's mean is one value a channel, which plain BatchNorm refuses in a batch of one."""
    net = deeplabv3.build(deeplabv3.Config(backbone="resnet18", channels=8), 2).train()
    assert net(torch.randn(1, 3, 5, 7)).logits_NCHW.shape == (1, 2, 5, 7)


@pytest.mark.parametrize(
    "options",
    [{"output_stride": 32}, {"multi_grid": [1, 2]}, {"rates": [6, 12, 0]}, {"dropout": 1.0}, {"auxiliary_weight": -1}, {"aux": 1}],
)
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="deeplabv3", options=options))


def test_a_net_without_classes_is_a_config_error():
    with pytest.raises(ConfigError, match="0 classes"):
        deeplabv3.build(deeplabv3.Config(), 0)
