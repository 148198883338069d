"""Averaged weights (Polyak averaging): an exponential moving average of parameters and buffers, kept by torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy that follows `model` at each `update_parameters(model)`.

    The decay starts low, min(decay, (1 + t) / (10 + t)) after t updates, so that the first weights are soon forgotten.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], updates: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, weight)
            else:  # BatchNorm's count of batches
                average.copy_(current)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
