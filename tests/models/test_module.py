from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import module
from segtasks.training.loaded import build_model, class_dependent

HALVING = "tests.models.nets:Halving"


def made(classes=4, **options):
    torch.manual_seed(0)
    return build_model(Plugin(name="module", options=options), classes)


@pytest.mark.parametrize(
    "options",
    [
        {"target": HALVING, "output": "out"},
        {"target": HALVING, "output": 1, "arguments": {"form": "tuple"}},
        {"target": HALVING, "output": -1, "arguments": {"form": "tuple"}},
        {"target": "tests.models.nets:halving"},
    ],
)
def test_logits_are_found_in_what_the_module_returns_and_get_the_images_size(options):
    net = made(**options, multiple=2).eval()
    image = torch.randn(2, 3, 7, 10)
    padded = F.pad(image, (0, 0, 0, 1), mode="replicate")
    expected = F.interpolate(net.net.conv(padded), size=(8, 10), mode="bilinear", align_corners=False)[:, :, :7]
    torch.testing.assert_close(net(image), expected)


def test_the_channels_of_the_image_are_passed_under_the_name_given():
    config = module.Config(target=HALVING, channels_argument="channels", output="out", multiple=2)
    assert module.build(config, 2, 5)(torch.randn(1, 5, 3, 3)).shape == (1, 2, 3, 3)


def test_building_on_shapes_alone_finds_the_head():
    assert class_dependent(Plugin(name="module", options={"target": HALVING, "output": "out"}), 4) == ("net.conv.weight", "net.conv.bias")


def test_trying_the_module_leaves_random_numbers_and_modes_as_they_were():
    torch.manual_seed(0)
    from tests.models import nets

    nets.Random(4)
    expected = torch.rand(1)
    net = made(target="tests.models.nets:Random")
    assert torch.equal(torch.rand(1), expected)
    assert (net.training, net.net.training, net.net.norm.training) == (True, True, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "no.such:Net"}, "no.such cannot be imported .ModuleNotFoundError"),
        ({"target": "tests.models.nets:Nett"}, "has no Nett"),
        ({"target": "tests.models.nets:NUMBER"}, "is a int; needed: a class or a callable"),
        ({"target": "tests.models.nets:no_module", "classes_argument": None}, "gives a int; needed: a torch.nn.Module"),
        ({"target": HALVING, "classes_argument": "classes"}, "called with classes failed .TypeError.*unexpected keyword"),
        ({"target": HALVING, "arguments": {"num_classes": 3}}, "num_classes of .* follows the data"),
        ({"target": HALVING}, "returns a dict with out, aux; needed: a tensor; name the logits' place in it as `output`"),
        ({"target": HALVING, "output": "logits"}, "returns a dict with out, aux, in which there is no 'logits'"),
        ({"target": HALVING, "output": 2, "arguments": {"form": "tuple"}}, "returns a tuple of 2, in which there is no 2"),
        ({"target": HALVING, "arguments": {"form": "flat"}}, r"gives \(1, 4\); needed: logits \(N, 4, h, w\)"),
        ({"target": HALVING, "arguments": {"channels": 1}}, r"failed on an image \(1, 3, 64, 64\) .RuntimeError"),
        ({"target": "tests.models.nets.Halving"}, "target"),
    ],
)
def test_a_module_that_does_not_fit_is_a_config_error_that_says_why(options, message):
    with pytest.raises(ConfigError, match=message):
        made(**options)
