from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from segtasks.models._encoding import ContextEncoding, Encoding, classes_present


def naive(features, codewords, scale):
    """Equations 1 and 2 of Context Encoding, with a tensor of every pixel's residual to every codeword."""
    pixels = features.flatten(2).transpose(1, 2)
    residual_NPKD = pixels[:, :, None] - codewords
    share_NPK = torch.softmax(scale * residual_NPKD.square().sum(3), dim=2)
    return (share_NPK[..., None] * residual_NPKD).sum(1)


@pytest.mark.parametrize(("batch", "channels", "codewords", "size"), [(2, 5, 3, (4, 6)), (1, 16, 8, (1, 1)), (3, 1, 1, (7, 2))])
def test_the_encoding_and_its_gradient_equal_the_naive_formula(batch, channels, codewords, size):
    torch.manual_seed(0)
    layer = Encoding(channels, codewords).double()
    torch.nn.init.normal_(layer.codewords)
    features = torch.randn(batch, channels, *size, dtype=torch.float64, requires_grad=True)
    inputs = (features, layer.codewords, layer.scale)
    ours, expected = layer(features), naive(*inputs)
    assert ours.shape == (batch, codewords, channels)
    torch.testing.assert_close(ours, expected)
    weights = torch.randn_like(ours)
    for found, wanted in zip(
        torch.autograd.grad((ours * weights).sum(), inputs), torch.autograd.grad((expected * weights).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_the_encodings_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    layer = Encoding(3, 2).double()
    features = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    call = lambda features, codewords, scale: torch.func.functional_call(layer, {"codewords": codewords, "scale": scale}, (features,))  # noqa: E731
    assert torch.autograd.gradcheck(call, (features, layer.codewords, layer.scale))


def test_no_tensor_holds_every_pixels_residual_to_every_codeword():
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
            return result

    layer, features = Encoding(24, 32), torch.randn(2, 24, 20, 30, requires_grad=True)
    with Largest() as seen:
        layer(features).sum().backward()
    assert 0 < seen.numbers <= 2 * 600 * 32  # pixels x codewords; the naive formula's tensor is 24 times that


def test_under_autocast_the_encoding_is_that_of_float32():
    torch.manual_seed(0)
    layer, features = Encoding(512, 32), torch.randn(2, 512, 6, 8).relu()
    exact = layer(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(features), exact)
    torch.testing.assert_close(exact, naive(features, layer.codewords, layer.scale), rtol=1e-4, atol=1e-4)


def test_the_encodings_work_can_be_counted_without_memory():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        code = Encoding(8, 4)(torch.zeros(2, 8, 5, 6))
    assert code.shape == (2, 4, 8)
    assert counter.get_total_flops() == 2 * (2 * 2 * 30 * 8 * 4)  # two products of pixels with codewords


def test_the_context_encoding_scales_whole_channels_by_one_to_two():
    torch.manual_seed(0)
    module, features = ContextEncoding(6, 4, num_classes=3).eval(), torch.rand(2, 6, 5, 7) + 0.1
    scaled, presence = module(features)
    assert presence.shape == (2, 3)
    ratio = (scaled / features).flatten(2)
    torch.testing.assert_close(ratio, ratio[:, :, :1].expand_as(ratio))
    assert ((ratio > 1) & (ratio < 2)).all()


def test_classes_present_are_those_of_each_image_and_ignored_pixels_hold_none():
    target = torch.tensor([[[0, 0], [2, 255]], [[65535, 255], [1, 1]], [[255, 255], [255, 255]]])
    expected = [[True, False, True], [False, True, False], [False, False, False]]
    assert classes_present(target, 3).tolist() == expected
    one_hot = F.one_hot(target.clamp(max=3), 4).flatten(1, 2).any(1)[:, :3]
    assert torch.equal(classes_present(target, 3), one_hot)
