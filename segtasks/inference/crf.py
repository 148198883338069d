"""Fully connected CRF (Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011):
sharpens a soft segmentation along the colour edges of its image, as DeepLab v1 and v2 do after their network.

Unary potentials are -log of the model's probabilities; two pixels of different classes cost (equation 3)

    bilateral_weight * exp(-|p_i - p_j|^2 / (2 bilateral_xy^2) - |I_i - I_j|^2 / (2 bilateral_rgb^2))
    + spatial_weight * exp(-|p_i - p_j|^2 / (2 spatial_xy^2))

with each kernel normalised symmetrically, D^-1/2 K D^-1/2 where D are its row sums, and a pixel's own term taken along: both as in the
authors' code. The Potts model counts every pair of classes alike.

An iteration takes O(pixels x classes): the spatial kernel is separable, the bilateral one goes through the permutohedral lattice. Images of
up to `exact_pixels` are filtered exactly instead, in O(pixels^2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from segtasks.inference.config import Crf
from segtasks.inference.lattice import Lattice

reach = 5.0  # standard deviations to which the spatial kernel is summed: what is left out is below 4e-6 of it


@torch.inference_mode()
def refine(logits_NCHW: Tensor, images_NHWC: Tensor, crf: Crf) -> Tensor:
    """Mean-field marginals float32 (N, C, H, W), summing to 1 over C, of logits and their uint8 RGB images (N, H, W, 3).

    Images are done one by one. One of 1024x2048 with 19 classes takes 5 s for its lattice and 3.2 s an iteration on two cores, and 4.1 GiB.
    """
    if images_NHWC.shape[:3] != (logits_NCHW.shape[0], *logits_NCHW.shape[2:]) or images_NHWC.shape[3:] != (3,):
        shapes = f"logits are {tuple(logits_NCHW.shape)}, images {tuple(images_NHWC.shape)}"
        raise ValueError(f"{shapes}; needed: (N, C, H, W) and (N, H, W, 3) of one N, H, W")
    return torch.stack([_refine(*pair, crf) for pair in zip(logits_NCHW, images_NHWC.to(logits_NCHW.device), strict=True)])


def _refine(logits_CHW: Tensor, image_HWC: Tensor, crf: Crf) -> Tensor:
    unary_CHW = logits_CHW.float().log_softmax(0)
    filters = [
        (weight, kind(image_HWC, crf))
        for weight, kind in ((crf.bilateral_weight, _Bilateral), (crf.spatial_weight, _Spatial))
        if weight > 0
    ]
    q_CHW = unary_CHW.exp()
    for _ in range(crf.iterations):
        message_CHW = unary_CHW.clone()
        for weight, kernel in filters:  # Potts: what other classes send is what all send, a constant, less the own class's
            message_CHW.add_(kernel(q_CHW), alpha=weight)
        q_CHW = message_CHW.softmax(0)
    return q_CHW


class _Kernel(ABC):
    """A kernel over the pixels of one image, normalised symmetrically."""

    def __init__(self, image_HWC: Tensor, crf: Crf) -> None:
        self._prepare(image_HWC, crf)
        height, width = image_HWC.shape[:2]
        ones_CHW = torch.ones(1, height, width, device=image_HWC.device)
        self._scale_HW = self._sums(ones_CHW)[0].clamp_min(1e-20).rsqrt()

    def __call__(self, values_CHW: Tensor) -> Tensor:
        return self._sums(values_CHW * self._scale_HW) * self._scale_HW

    @abstractmethod
    def _prepare(self, image_HWC: Tensor, crf: Crf) -> None: ...

    @abstractmethod
    def _sums(self, values_CHW: Tensor) -> Tensor:
        """Of each pixel the kernel-weighted sum of all."""


class _Spatial(_Kernel):
    def _prepare(self, image_HWC: Tensor, crf: Crf) -> None:
        self._taps = [_gaussian(crf.spatial_xy, side, image_HWC.device) for side in image_HWC.shape[:2]]

    def _sums(self, values_CHW: Tensor) -> Tensor:
        down, across = self._taps
        values = F.conv2d(values_CHW.unsqueeze(1), down.view(1, 1, -1, 1), padding=(len(down) // 2, 0))
        return F.conv2d(values, across.view(1, 1, 1, -1), padding=(0, len(across) // 2)).squeeze(1)


def _gaussian(deviation: float, side: int, device: torch.device) -> Tensor:
    radius = min(side - 1, max(1, round(reach * deviation)))
    at = torch.arange(-radius, radius + 1, device=device, dtype=torch.float32)
    return torch.exp(-(at**2) / (2 * deviation**2))


class _Bilateral(_Kernel):
    def _prepare(self, image_HWC: Tensor, crf: Crf) -> None:
        height, width = image_HWC.shape[:2]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        place_HWC = torch.stack([x, y], dim=2).to(image_HWC.device) / crf.bilateral_xy
        features_ND = torch.cat([place_HWC, image_HWC / crf.bilateral_rgb], dim=2).reshape(height * width, 5)
        self._lattice = Lattice(features_ND) if height * width > crf.exact_pixels else None
        self._dense = None if self._lattice else torch.exp(-0.5 * _squares(features_ND))

    def _sums(self, values_CHW: Tensor) -> Tensor:
        values_NC = values_CHW.flatten(1).T.contiguous()
        if self._lattice is not None:
            found_NC = self._lattice.filter(values_NC)
        else:
            assert self._dense is not None
            found_NC = self._dense @ values_NC
        return found_NC.T.reshape(values_CHW.shape)


def _squares(features_ND: Tensor) -> Tensor:
    """Squared distances of all pairs (N, N), summed coordinate by coordinate: nothing cancels."""
    found = features_ND.new_zeros(len(features_ND), len(features_ND))
    for column_N in features_ND.T:
        found += (column_N[:, None] - column_N[None]) ** 2
    return found
