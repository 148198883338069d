"""A transformers model made fit for training by segtasks: batches of one image, several ranks, torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from segtasks.models._layers import BatchNorm

UNUSED = "pixel_level_module.encoder.swin.layernorm."  # of Mask2Former: Swin's last norm is for classification


def prepare(net: nn.Module) -> nn.Module:
    """In place: BatchNorm that trains on one value a channel, and what is never used frozen where `freeze_unused` cannot find it."""
    for part in net.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = BatchNorm
    for name, parameter in net.named_parameters():
        if UNUSED in name:
            parameter.requires_grad_(False)
    return net


def freeze_unused(net: nn.Module, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Freeze the parameters that the logits do not depend on, such as a last norm for classification: several ranks would wait for them.

    `build` makes the model once more, on the meta device, where a backward pass costs no work. One that cannot run there stays as it is.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
            ghost = build().eval()
            found = ghost(torch.empty(shape))
            _install_hooks(net, ghost)
            outputs = [value for name, value in found.items() if name == "logits" or name.endswith("_queries_logits")]
            torch.stack([output.sum() for output in outputs if isinstance(output, Tensor)]).sum().backward()
    except Exception:  # noqa: BLE001  whatever a model of somebody else does with values
        return
    unused = {name for name, parameter in ghost.named_parameters() if parameter.grad is None}
    for name, parameter in net.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)


def _install_hooks(net: nn.Module, ghost: nn.Module) -> None:
    """The hooks by which `ghost` gave itself its inner outputs: torch.compile cannot follow their installation in a first pass."""
    try:
        from transformers import PreTrainedModel
        from transformers.utils.output_capturing import maybe_install_capturing_hooks
    except ImportError:  # a version without such hooks
        return
    for part, like in zip(net.modules(), ghost.modules(), strict=True):
        if getattr(like, "_output_capturing_hooks_installed", False):
            maybe_install_capturing_hooks(cast(PreTrainedModel, part))
