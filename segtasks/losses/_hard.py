"""Which pixels are the hardest, for the losses that learn from those alone."""

from __future__ import annotations

import torch
from torch import Tensor


def hardest(loss_NHW: Tensor, eligible_NHW: Tensor, count: int) -> Tensor:
    """bool (N, H, W): the eligible pixels whose loss is at least the `count`-th highest of the whole batch; ties are all among them."""
    candidates = loss_NHW.detach()[eligible_NHW]
    if count <= 0 or not len(candidates):
        return torch.zeros_like(eligible_NHW)
    if count >= len(candidates):
        return eligible_NHW
    least = candidates.kthvalue(len(candidates) - count + 1).values
    return eligible_NHW & (loss_NHW.detach() >= least)
