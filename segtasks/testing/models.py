"""The contract of a model: any size in, logits of that size out; gradients everywhere; weights that save and load bit by bit.

A model that cannot keep a part of it says so in its module, in words: `EXEMPT = {"exports_to_onnx_with_equal_argmax": "runs OpenCV"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from segtasks.errors import MissingExtra
from segtasks.models._base import Outputs, training_loss
from segtasks.testing._base import check_config, small_config

Options = Mapping[str, Any] | None
CLASSES = 5


def check_model(module: ModuleType, options: Options = None) -> None:
    """All the quick checks. `options` are those of a small configuration; none: the module's `SMALL`, or its defaults."""
    for check in QUICK:
        if exemption(module, check) is None:
            check(module, options)


def exemption(module: ModuleType, check: Callable[..., None]) -> str | None:
    """Why the module need not pass `check`, in its own words; none: it must."""
    exempt: Mapping[str, str] = getattr(module, "EXEMPT", {})
    unknown = exempt.keys() - {known.__name__ for known in (*QUICK, *SLOW)}
    assert not unknown, f"EXEMPT of {module.__name__} names {', '.join(sorted(unknown))}, which are no checks of the contract"
    return exempt.get(check.__name__)


def config_is_a_config(module: ModuleType, options: Options = None) -> None:
    """`Config` can be written into a recipe and shown in a form."""
    check_config(module.Config)


def logits_have_the_inputs_size(module: ModuleType, options: Options = None) -> None:
    """Any height and width from 1 on, batch 1 included, any number of input channels and classes."""
    for in_channels, classes, size in [(3, CLASSES, (1, 1)), (1, 2, (17, 31)), (4, 1, (64, 48)), (3, CLASSES, (33, 47))]:
        net = _build(module, options, classes, in_channels).eval()
        for batch in (1, 2):
            logits_NCHW = _infer(net, torch.randn(batch, in_channels, *size))
            assert isinstance(logits_NCHW, Tensor), f"in eval mode the output is a {type(logits_NCHW).__name__}; needed: logits alone"
            assert logits_NCHW.shape == (batch, classes, *size), (
                f"an input of {(batch, in_channels, *size)} gives logits of {tuple(logits_NCHW.shape)}; needed: {(batch, classes, *size)}"
            )
            assert torch.isfinite(logits_NCHW).all(), f"logits of a {size} input are not finite"


def gradients_reach_every_parameter(module: ModuleType, options: Options = None) -> None:
    """After one backward pass every parameter has a finite gradient that is not zero everywhere."""
    net = _build(module, options)
    _charge(net.train(), torch.randn(2, 3, 33, 47), torch.randint(0, CLASSES, (2, 33, 47))).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
        assert parameter.grad.abs().max() > 0, f"the gradient of {name} is zero everywhere"


def trains_on_one_image(module: ModuleType, options: Options = None) -> None:
    """A batch of one at an odd size, with finite loss and gradients. BatchNorm over one pooled value is the trap: `_layers.BatchNorm`."""
    net = _build(module, options).train()
    image_NCHW, target_NHW = torch.randn(1, 3, 33, 47), torch.randint(0, CLASSES, (1, 33, 47))
    output = net(image_NCHW)
    logits_NCHW = output.logits_NCHW if isinstance(output, Outputs) else output
    assert logits_NCHW.shape == (1, CLASSES, 33, 47), f"in training an input of (1, 3, 33, 47) gives logits of {tuple(logits_NCHW.shape)}"
    loss = training_loss(net, output, target_NHW, F.cross_entropy)
    assert torch.isfinite(loss), f"the loss of one image is {loss.item()}"
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None), "a gradient of one image is not finite"


def weights_save_and_load_bit_equal(module: ModuleType, options: Options = None) -> None:
    """Through safetensors into a net that was built anew: the same logits, bit by bit."""
    net = _build(module, options)
    net.train()(torch.randn(2, 3, 33, 47))  # moves running statistics off their initial values
    again = _build(module, options, seed=1)
    again.load_state_dict(safetensors.torch.load(safetensors.torch.save(net.state_dict())), strict=True)
    image_NCHW = torch.randn(1, 3, 33, 47)
    assert torch.equal(_infer(net.eval(), image_NCHW), _infer(again.eval(), image_NCHW)), "loaded weights give other logits"


def building_is_seeded_by_torch(module: ModuleType, options: Options = None) -> None:
    """The same torch seed gives the same fresh weights, another seed gives others."""
    first, same, other = (_build(module, options, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first), "one seed gives two sets of weights"
    assert any(not torch.equal(first[name], other[name]) for name in first), "two seeds give the same weights"


def evaluation_is_a_pure_function(module: ModuleType, options: Options = None) -> None:
    """In eval mode nothing is drawn and nothing is updated: an image's logits do not depend on what was seen before it."""
    net = _build(module, options).eval()
    image_NCHW = torch.randn(1, 3, 33, 47)
    first = _infer(net, image_NCHW)
    _infer(net, torch.randn(2, 3, 20, 20))
    assert torch.equal(first, _infer(net, image_NCHW)), "the same image twice gives different logits in eval mode"


def works_in_channels_last(module: ModuleType, options: Options = None) -> None:
    """Memory format changes speed, not logits (beyond rounding)."""
    net = _build(module, options).eval()
    image_NCHW = torch.randn(2, 3, 33, 47)
    plain = _infer(net, image_NCHW)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = _infer(net, image_NCHW.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-4)


def works_in_bfloat16_autocast(module: ModuleType, options: Options = None) -> None:
    """Logits under autocast stay within a tenth of their spread of float32's, and the backward pass is finite."""
    net = _build(module, options)
    image_NCHW = torch.randn(2, 3, 33, 47)
    net.train()(image_NCHW)
    exact = _infer(net.eval(), image_NCHW)
    with torch.autocast("cpu", torch.bfloat16):
        rough = _infer(net, image_NCHW)
        assert rough.shape == exact.shape
        difference = (rough.float() - exact).abs().mean() / exact.std().clamp_min(1e-6)
        assert difference < 0.1, f"under bfloat16 autocast logits differ by {difference:.3f} of their standard deviation on average"
        loss = _charge(net.train(), image_NCHW, torch.randint(0, CLASSES, (2, 33, 47)))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None), "a bfloat16 gradient is not finite"


def learns_eight_images_by_heart(module: ModuleType, options: Options = None, *, steps: int = 300) -> None:
    """Slow. Pixel accuracy above 0.9 in eval mode on eight made images (0.6 is background) within `steps` steps of AdamW."""
    torch.manual_seed(0)
    image_NCHW, target_NHW = _shapes(8)
    net = _build(module, options, classes=3).train()
    optimizer = torch.optim.AdamW(net.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    accuracy = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        _charge(net, image_NCHW, target_NHW).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rates.step()
        if step % 20 == 19:
            net.eval()
            accuracy = (_infer(net, image_NCHW).argmax(1) == target_NHW).float().mean().item()
            net.train()
            if accuracy > 0.9:
                return
    raise AssertionError(f"pixel accuracy on eight training images is {accuracy:.3f} after {steps} steps; needed: above 0.9")


def compiles_to_the_same_logits(module: ModuleType, options: Options = None) -> None:
    """Slow. `torch.compile` in one graph, at a size that needs padding."""
    net = _build(module, options).eval()
    image_NCHW = torch.randn(1, 3, 33, 47)
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(_infer(compiled, image_NCHW), _infer(net, image_NCHW), rtol=1e-3, atol=1e-4)


def exports_to_onnx_with_equal_argmax(module: ModuleType, options: Options = None) -> None:
    """Slow. Exported once, for any batch and as many sizes as the exporter allows; ONNX Runtime agrees on 99.9% of the pixels.

    Raises `MissingExtra` without the extra `onnx`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx.export wants
    except ImportError as error:
        raise MissingExtra(f"ONNX is not installed ({error}): pip install 'segtasks[onnx]'") from error
    net = _build(module, options)
    net.train()(torch.randn(2, 3, 33, 47))
    dynamic = {0: Dim.DYNAMIC, 2: Dim.AUTO, 3: Dim.AUTO}
    program = torch.onnx.export(net.eval(), (torch.randn(2, 3, 33, 47),), dynamo=True, dynamic_shapes=(dynamic,), verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    any_size = all(isinstance(side, str) for side in entry.shape[2:])
    for shape in [(1, 3, 33, 47), (3, 3, 33, 47)] + [(1, 3, 51, 35), (2, 3, 64, 96)] * any_size:
        image_NCHW = torch.randn(shape)
        (logits_NCHW,) = session.run(None, {entry.name: image_NCHW.numpy()})
        expected = _infer(net, image_NCHW)
        assert logits_NCHW.shape == tuple(expected.shape), f"ONNX Runtime gives logits of {logits_NCHW.shape} for an input of {shape}"
        equal = (torch.from_numpy(logits_NCHW).argmax(1) == expected.argmax(1)).float().mean().item()
        assert equal >= 0.999, f"ONNX Runtime gives the class of {equal:.2%} of the pixels of an input of {shape}; needed: 99.9%"


QUICK: tuple[Callable[..., None], ...] = (
    config_is_a_config,
    logits_have_the_inputs_size,
    gradients_reach_every_parameter,
    trains_on_one_image,
    weights_save_and_load_bit_equal,
    building_is_seeded_by_torch,
    evaluation_is_a_pure_function,
    works_in_channels_last,
    works_in_bfloat16_autocast,
)
SLOW: tuple[Callable[..., None], ...] = (
    learns_eight_images_by_heart,
    compiles_to_the_same_logits,
    exports_to_onnx_with_equal_argmax,
)


def _build(module: ModuleType, options: Options, classes: int = CLASSES, in_channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net: nn.Module = module.build(small_config(module, options), classes, in_channels)
    return net


def _charge(net: nn.Module, image_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
    """The training loop's way from images to a scalar, with cross-entropy."""
    output = net(image_NCHW)
    return training_loss(net, output, target_NHW, lambda logits_NCHW, target: F.cross_entropy(logits_NCHW.float(), target))


def _infer(net: Callable[[Tensor], Tensor], image_NCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(image_NCHW)


def _shapes(count: int) -> tuple[Tensor, Tensor]:
    """Noisy images of a dark disc and a bright square on grey, 48x48, and their three classes."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    target_NHW = torch.zeros(count, 48, 48, dtype=torch.int64)
    for target in target_NHW:
        cy, cx, top, left = torch.randint(6, 28, (4,)).tolist()
        target[(y - cy) ** 2 + (x - cx) ** 2 < 169] = 1
        target[top : top + 20, left : left + 20] = 2
    image_NCHW = torch.tensor([0.0, -1.0, 1.0])[target_NHW].unsqueeze(1).repeat(1, 3, 1, 1)
    return image_NCHW + 0.3 * torch.randn(image_NCHW.shape), target_NHW
