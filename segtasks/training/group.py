"""What the ranks of a training group tell each other; with one rank each call returns at once."""

from __future__ import annotations

from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segtasks.models._base import Outputs

T = TypeVar("T")

# renamed in torch 2.13, which warns of the old name
_SYNC_BUFFERS = (
    "forward_sync_buffers" if "forward_sync_buffers" in signature(nn.parallel.DistributedDataParallel).parameters else "broadcast_buffers"
)


def sum_over_ranks(values: Tensor, world: int) -> Tensor:
    """The sum of `values` over the ranks, in place."""
    if world > 1:
        dist.all_reduce(values)
    return values


def gather(value: T, world: int) -> list[T]:
    """`value` of every rank, in rank order, on every rank."""
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values


def from_rank_0(value: T, world: int) -> T:
    """Rank 0's `value`, on every rank."""
    if world == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


class BufferMean:
    """Keeps the floating buffers (BatchNorm's running statistics) equal on all ranks: their mean after every step.

    Normalisation itself uses each rank's own part of the batch, so more ranks see smaller batches there. One number a rank, the
    loss, travels along.
    """

    def __init__(self, model: nn.Module, world: int) -> None:
        self._world = world
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]

    @torch.no_grad()
    def exchange(self, loss_share: Tensor) -> Tensor:
        """Average the buffers in place; the sum of `loss_share` (a float32 scalar) over the ranks."""
        if self._world == 1:
            return loss_share
        flat = torch.cat([loss_share.reshape(1).float(), *(buffer.reshape(-1).float() for buffer in self._buffers)])
        dist.all_reduce(flat)
        first = 1
        for buffer in self._buffers:
            last = first + buffer.numel()
            buffer.copy_((flat[first:last] / self._world).view_as(buffer))
            first = last
        return flat[0]


def _mean(output: Tensor | Outputs) -> Tensor:
    """Something that every head's gradient flows from."""
    if isinstance(output, Tensor):
        return output.mean()
    return output.logits_NCHW.mean() + sum(tensor.mean() for tensor in output.auxiliary.values() if tensor.requires_grad)


def parallel(model: nn.Module, world: int, example_NCHW: Tensor) -> nn.Module:
    """Wrap `model` so that gradients are averaged over the ranks. Call it before weights are restored.

    DDP settles its gradient buckets after the first backward pass. One pass over a made-up batch is done here, so that a resumed
    run adds gradients in the same order as an undisturbed one.
    """
    if world == 1:
        return model
    no_sync: dict[str, Any] = {_SYNC_BUFFERS: False}
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, **no_sync)
    buffers = [buffer.clone() for buffer in model.buffers()]
    _mean(wrapped(example_NCHW)).backward()
    wrapped.zero_grad()
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return wrapped
