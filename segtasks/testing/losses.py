"""The contract of a loss: a finite scalar, blind to ignored pixels, with the gradient that finite differences give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segtasks.testing._base import check_config, made_spec, small_config

Options = Mapping[str, Any] | None
CLASSES = 4  # a loss for exactly two classes says so by `CLASSES = 2` in its module
IGNORE = 255


def check_loss(module: ModuleType, options: Options = None) -> None:
    """All checks. `options`: the configuration to check; none: the module's `SMALL`, or its defaults."""
    for check in QUICK:
        check(module, options)


def config_is_a_config(module: ModuleType, options: Options = None) -> None:
    """`Config` can be written into a recipe and shown in a form."""
    check_config(module.Config)


def is_a_finite_scalar_with_gradient(module: ModuleType, options: Options = None) -> None:
    """On an ordinary batch, in either memory format, with equal values."""
    loss, (logits_NCHW, target_NHW) = _build(module, options), _case(module)
    value = loss(logits_NCHW.requires_grad_(), target_NHW)
    assert value.shape == (), f"the loss has shape {tuple(value.shape)}; needed: a scalar"
    assert torch.isfinite(value), f"the loss is {value.item()}"
    value.backward()
    assert logits_NCHW.grad is not None, "no gradient reaches the logits"
    assert torch.isfinite(logits_NCHW.grad).all(), "the gradient is not finite"
    assert logits_NCHW.grad.abs().max() > 0, "the gradient is zero"
    other = loss(logits_NCHW.detach().to(memory_format=torch.channels_last), target_NHW)
    torch.testing.assert_close(other, value.detach())


def gradient_equals_finite_differences(module: ModuleType, options: Options = None) -> None:
    """In float64, by `torch.autograd.gradcheck`.

    A module whose loss takes a factor as constant, as its paper says, has `STOPS_GRADIENT = True` and tests its gradient itself.
    """
    if getattr(module, "STOPS_GRADIENT", False):
        return
    loss, (logits_NCHW, target_NHW) = _build(module, options), _case(module, height=3, width=4)
    torch.autograd.gradcheck(lambda logits: loss(logits, target_NHW), logits_NCHW.double().requires_grad_())


def ignored_pixels_change_nothing(module: ModuleType, options: Options = None) -> None:
    """Other logits at ignored pixels give the same value, and no gradient reaches them."""
    loss, (logits_NCHW, target_NHW) = _build(module, options), _case(module)
    ignored_N1HW = (target_NHW == IGNORE).unsqueeze(1)
    changed_NCHW = torch.where(ignored_N1HW, torch.randn_like(logits_NCHW) * 50, logits_NCHW).requires_grad_()
    value = loss(changed_NCHW, target_NHW)
    torch.testing.assert_close(value.detach(), loss(logits_NCHW, target_NHW))
    value.backward()
    assert changed_NCHW.grad is not None, "no gradient reaches the logits"
    assert (changed_NCHW.grad * ignored_N1HW).abs().max() == 0, "a gradient reaches ignored pixels"


def a_batch_of_ignored_pixels_costs_zero(module: ModuleType, options: Options = None) -> None:
    """The value is 0 and the gradient zero, not NaN: a crop may hold nothing but void."""
    loss = _build(module, options)
    logits_NCHW = torch.randn(2, _classes(module), 5, 6, requires_grad=True)
    value = loss(logits_NCHW, torch.full((2, 5, 6), IGNORE))
    assert value.item() == 0, f"a batch in which every pixel is ignored costs {value.item()}; needed: 0"
    value.backward()
    assert logits_NCHW.grad is not None, "no gradient reaches the logits"
    assert logits_NCHW.grad.abs().max() == 0, "a batch in which every pixel is ignored has a gradient"


def extreme_logits_in_bfloat16_stay_finite(module: ModuleType, options: Options = None) -> None:
    """Logits of +-10,000, right and wrong, under half precision."""
    loss, (_, target_NHW) = _build(module, options), _case(module)
    right_NCHW = _one_hot(target_NHW, _classes(module)) * 2e4 - 1e4
    for logits_NCHW in (right_NCHW, -right_NCHW):
        half_NCHW = logits_NCHW.bfloat16().requires_grad_()
        value = loss(half_NCHW, target_NHW)
        value.backward()
        assert torch.isfinite(value), f"the loss of extreme bfloat16 logits is {value.item()}"
        assert half_NCHW.grad is not None, "no gradient reaches the logits"
        assert torch.isfinite(half_NCHW.grad).all(), "the gradient of extreme bfloat16 logits is not finite"


def a_better_prediction_costs_less(module: ModuleType, options: Options = None) -> None:
    """Right and sure < undecided < wrong and sure."""
    loss, (_, target_NHW) = _build(module, options), _case(module)
    right_NCHW = _one_hot(target_NHW, _classes(module)) * 5
    values = [loss(logits_NCHW, target_NHW).item() for logits_NCHW in (right_NCHW, right_NCHW * 0, -right_NCHW)]
    assert values == sorted(values), f"right, undecided and wrong predictions cost {values}"
    assert values[0] < values[2], f"right and wrong predictions cost the same: {values}"


QUICK: tuple[Callable[..., None], ...] = (
    config_is_a_config,
    is_a_finite_scalar_with_gradient,
    gradient_equals_finite_differences,
    ignored_pixels_change_nothing,
    a_batch_of_ignored_pixels_costs_zero,
    extreme_logits_in_bfloat16_stay_finite,
    a_better_prediction_costs_less,
)


def _build(module: ModuleType, options: Options) -> Callable[[Tensor, Tensor], Tensor]:
    classes = _classes(module)
    loss: Callable[[Tensor, Tensor], Tensor] = module.build(
        small_config(module, options), made_spec(classes, IGNORE), [70, 20, 9, 1][:classes]
    )
    return loss


def _classes(module: ModuleType) -> int:
    return int(getattr(module, "CLASSES", CLASSES))


def _case(module: ModuleType, height: int = 7, width: int = 9) -> tuple[Tensor, Tensor]:
    """Random logits (2, C, H, W) and a target with every class and about a quarter of ignored pixels."""
    random = torch.Generator().manual_seed(0)
    logits_NCHW = torch.randn(2, _classes(module), height, width, generator=random)
    target_NHW = torch.randint(0, _classes(module), (2, height, width), generator=random)
    target_NHW[torch.rand(target_NHW.shape, generator=random) < 0.25] = IGNORE
    return logits_NCHW, target_NHW


def _one_hot(target_NHW: Tensor, classes: int) -> Tensor:
    return F.one_hot(target_NHW.clamp(max=classes), classes + 1)[..., :classes].permute(0, 3, 1, 2).float()
