"""The contract checks find what they are for: each is shown a model that breaks it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segtasks.config import Config
from segtasks.testing import models


def module(net_class):
    """A plug-in module around a class made with (num_classes, in_channels)."""
    return SimpleNamespace(Config=Config, build=lambda config, num_classes, in_channels=3: net_class(num_classes, in_channels))


class Sound(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        return self.head(self.conv(x).relu())


class HalfSize(Sound):
    def forward(self, x):
        return super().forward(x)[:, :, ::2, ::2]


class DeadParameter(Sound):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.unused = nn.Parameter(torch.ones(3))


class ZeroGradient(Sound):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return super().forward(x) + 0 * self.scale


class StateOutsideTheWeights(Sound):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.shift = torch.randn(())

    def forward(self, x):
        return super().forward(x) + self.shift


class OwnSeed(Sound):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        nn.init.ones_(self.conv.weight)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)


class NoiseInEval(Sound):
    def forward(self, x):
        return super().forward(x) + torch.randn(())


class MemoryOrder(Sound):
    """Reads its input in memory order, so that the memory format changes the result."""

    def forward(self, x):
        flat = x.permute(0, 2, 3, 1).reshape(x.shape) if x.is_contiguous(memory_format=torch.channels_last) else x
        return super().forward(flat)


class OverflowsInHalf(Sound):
    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            x = x * float("inf")
        return super().forward(x)


class NormalisesOneValue(Sound):
    """Plain BatchNorm over a pooled image: a batch of one has nothing to normalise by."""

    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        features = self.conv(x)
        return self.head(features + self.norm(features.mean((2, 3), keepdim=True)))


class TupleInEval(Sound):
    def forward(self, x):
        return (super().forward(x),)


class OtherInTheExporter(Sound):
    def forward(self, x):
        return super().forward(x.flip(3) if torch.compiler.is_exporting() else x)


class LearnsNothing(Sound):
    def forward(self, x):
        return super().forward(x * 0)


@pytest.mark.parametrize(
    ("net_class", "check", "message"),
    [
        (HalfSize, models.logits_have_the_inputs_size, "needed: "),
        (DeadParameter, models.gradients_reach_every_parameter, "no gradient reaches unused"),
        (ZeroGradient, models.gradients_reach_every_parameter, "the gradient of scale is zero"),
        (StateOutsideTheWeights, models.weights_save_and_load_bit_equal, "loaded weights give other logits"),
        (OwnSeed, models.building_is_seeded_by_torch, "two seeds give the same"),
        (NoiseInEval, models.evaluation_is_a_pure_function, "different logits"),
        (MemoryOrder, models.works_in_channels_last, "not close"),
        (OverflowsInHalf, models.works_in_bfloat16_autocast, "differ by nan"),
        (TupleInEval, models.logits_have_the_inputs_size, "in eval mode the output is a tuple"),
        (LearnsNothing, models.learns_eight_images_by_heart, "pixel accuracy"),
    ],
)
def test_a_model_that_breaks_the_contract_is_found(net_class, check, message):
    with pytest.raises(AssertionError, match=message):
        check(module(net_class))


def test_a_sound_model_passes():
    models.check_model(module(Sound))


def test_a_config_that_cannot_be_shown_in_a_form_is_found():
    class Bare(Config):
        size: int = 3

    with pytest.raises(AssertionError, match="size has no description"):
        models.config_is_a_config(SimpleNamespace(Config=Bare))


def test_a_model_that_cannot_train_on_one_image_is_found():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        models.trains_on_one_image(module(NormalisesOneValue))


@pytest.mark.slow
def test_a_model_that_the_exporter_changes_is_found():
    pytest.importorskip("onnxscript", reason="onnx is not installed")
    with pytest.raises(AssertionError, match="ONNX Runtime gives the class of"):
        models.exports_to_onnx_with_equal_argmax(module(OtherInTheExporter))
    models.exports_to_onnx_with_equal_argmax(module(Sound))


def test_a_model_is_exempt_from_the_checks_that_it_names_and_from_no_other():
    outside = module(NoiseInEval)
    outside.EXEMPT = {
        "evaluation_is_a_pure_function": "draws noise",
        "weights_save_and_load_bit_equal": "draws noise",
        "works_in_channels_last": "draws noise",
        "works_in_bfloat16_autocast": "draws noise",
    }
    models.check_model(outside)
    assert models.exemption(outside, models.works_in_channels_last) == "draws noise"
    assert models.exemption(outside, models.gradients_reach_every_parameter) is None
    outside.EXEMPT = {"evaluation_is_pure": "draws noise"}
    outside.__name__ = "outside"
    with pytest.raises(AssertionError, match="EXEMPT of outside names evaluation_is_pure"):
        models.check_model(outside)
