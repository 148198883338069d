"""Gaussian filtering of values at scattered points in the permutohedral lattice (Adams, Baek and Davis, "Fast High-Dimensional Filtering
Using the Permutohedral Lattice", Eurographics 2010): splat to the corners of the enclosing simplex, blur along each axis, slice.

Time and memory grow with points x dimensions, not with points squared. The kernel is a Gaussian up to a constant factor, and roughly: the
lattice is as coarse as the Gaussian is wide. As in the paper, only corners that a point touches exist; what is blurred beyond is lost.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from segtasks.errors import ConfigError


class Lattice:
    """The lattice of one set of points: built once, used for any values.

    `features_ND`: float (N, D), in units of the Gaussian's standard deviation.
    """

    def __init__(self, features_ND: Tensor) -> None:
        count, dims = features_ND.shape
        keys, weights_NK = _simplices(features_ND.double())
        packed, strides = _pack(keys.reshape(-1, dims))
        self._packed_M, index = torch.unique(packed, return_inverse=True)
        starts = torch.arange(0, count * (dims + 1) + 1, dims + 1, device=index.device)
        self._slice = _csr(starts, index.reshape(-1), weights_NK.float().reshape(-1), len(self._packed_M))
        self._splat = self._slice.t().to_sparse_csr()
        self._blurs = [self._along(_step(axis, strides)) for axis in range(dims + 1)]

    def filter(self, values_NC: Tensor) -> Tensor:
        """float32 (N, C) -> (N, C): each row the kernel-weighted sum of all rows, itself included."""
        found_MC = self._splat @ values_NC
        for blur in self._blurs:
            found_MC = blur @ found_MC
        result_NC: Tensor = self._slice @ found_MC
        return result_NC

    def _along(self, step: int) -> Tensor:
        """The blur along an axis as a sparse matrix: half of a corner stays, a quarter comes from each neighbour that exists."""
        count, device = len(self._packed_M), self._packed_M.device
        own = torch.arange(count, device=device)
        columns = torch.stack([self._find(self._packed_M - step), own, self._find(self._packed_M + step)], dim=1)
        there = columns < count
        weights = torch.tensor([0.25, 0.5, 0.25], device=device).expand(count, 3)[there]
        starts = torch.cat([own.new_zeros(1), there.sum(1).cumsum(0)])
        return _csr(starts, columns[there], weights, count)

    def _find(self, packed_M: Tensor) -> Tensor:
        """The places of corners; the place after the last where one does not exist."""
        at = torch.searchsorted(self._packed_M, packed_M).clamp_max(len(self._packed_M) - 1)
        return torch.where(self._packed_M[at] == packed_M, at, len(self._packed_M))


def _csr(starts: Tensor, columns: Tensor, weights: Tensor, width: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(starts, columns, weights, size=(len(starts) - 1, width), check_invariants=False)


def _simplices(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Of each point the D + 1 corners of its simplex, their first D coordinates (N, D + 1, D), and its barycentric weights there."""
    count, dims = features_ND.shape
    device = features_ND.device
    unit = (dims + 1) * math.sqrt(2 / 3)  # splat and slice widen the kernel by (D+1)^2/12 each, the blur by (D+1)^2/2: one deviation
    axes = torch.arange(1, dims + 1, dtype=torch.float64, device=device)
    scaled_ND = features_ND * (unit / torch.sqrt(axes * (axes + 1)))
    above = scaled_ND.flip(1).cumsum(1).flip(1)  # of coordinate i: the sum of i, i+1, ...
    elevated = torch.cat([above, scaled_ND.new_zeros(count, 1)], dim=1)
    elevated[:, 1:] -= axes * scaled_ND
    low = torch.floor(elevated / (dims + 1)) * (dims + 1)
    nearest = torch.where(elevated - low < (dims + 1) / 2, low, low + dims + 1)
    excess = torch.round(nearest.sum(1, keepdim=True) / (dims + 1)).long()
    rest = elevated - nearest
    order = torch.argsort(rest, dim=1, descending=True, stable=True)
    places = torch.arange(dims + 1, device=device).expand(count, -1)
    rank = torch.empty_like(order).scatter_(1, order, places) + excess
    up, down = rank < 0, rank > dims
    nearest = nearest + (dims + 1) * (up.double() - down.double())
    rank = rank + (dims + 1) * (up.long() - down.long())
    rest = (elevated - nearest) / (dims + 1)
    ordered = torch.zeros(count, dims + 2, dtype=torch.float64, device=device)
    ordered.scatter_add_(1, dims - rank, rest)
    ordered.scatter_add_(1, dims + 1 - rank, -rest)
    ordered[:, 0] += 1 + ordered[:, dims + 1]
    corner = torch.arange(dims + 1, device=device).view(1, -1, 1)
    offsets = corner - (dims + 1) * (rank.unsqueeze(1) > dims - corner).long()
    keys = nearest.long().unsqueeze(1) + offsets
    return keys[:, :, :dims], ordered[:, : dims + 1]


def _pack(keys: Tensor) -> tuple[Tensor, list[int]]:
    """Coordinates as one integer, with room for a neighbour on every side, and what a step in each coordinate is in it."""
    room = keys.shape[1]
    low, high = keys.amin(0) - room, keys.amax(0) + room
    sizes = (high - low + 1).tolist()
    if math.prod(sizes) >= 1 << 63:
        raise ConfigError(f"the points span {' x '.join(map(str, sizes))} lattice steps, more than can be numbered; use larger deviations")
    strides = [math.prod(sizes[place + 1 :]) for place in range(room)]
    return ((keys - low) * torch.tensor(strides, device=keys.device)).sum(1), strides


def _step(axis: int, strides: list[int]) -> int:
    """One step along an axis of the lattice: up by one in every coordinate but its own, and there down by D (the last is not kept)."""
    dims = len(strides)
    return sum(stride * (-dims if place == axis else 1) for place, stride in enumerate(strides))
