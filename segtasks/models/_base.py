"""What a model gives in training, and how that is charged: papers supervise more than the logits, each in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from segtasks.models._layers import resize

Loss = Callable[[Tensor, Tensor], Tensor]


class Outputs(NamedTuple):
    """The output in training of a model that is supervised in more places than its logits. In eval mode every model gives logits alone.

    A NamedTuple of tensors, so that DistributedDataParallel and `torch.compile` see through it.
    """

    logits_NCHW: Tensor
    auxiliary: dict[str, Tensor]  # logits (N, C, h, w) of any h, w, or what the model's own `training_loss` reads


class SegmentationModel(nn.Module):
    """A model with auxiliary heads. One whose paper has another training objective overrides `training_loss`."""

    auxiliary_weights: Mapping[str, float] = {}

    def training_loss(self, output: Tensor | Outputs, target_NHW: Tensor, loss: Loss) -> Tensor:
        """loss(logits) + sum over the auxiliary heads of weight x loss(their logits, upsampled to the target's size)."""
        if isinstance(output, Tensor):
            return loss(output, target_NHW)
        total = loss(output.logits_NCHW, target_NHW)
        for name, weight in self.auxiliary_weights.items():
            if name in output.auxiliary:
                total = total + weight * loss(resize(output.auxiliary[name], target_NHW.shape[-2:]), target_NHW)
        return total


def training_loss(model: nn.Module, output: Tensor | Outputs, target_NHW: Tensor, loss: Loss) -> Tensor:
    """What `output` of `model` in training costs: by the model's own `training_loss` if it has one, else `loss` of its logits."""
    if isinstance(model, SegmentationModel):
        return model.training_loss(output, target_NHW, loss)
    assert isinstance(output, Tensor)
    return loss(output, target_NHW)
