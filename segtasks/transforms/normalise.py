"""From a batch of bytes to what the model takes. Training and prediction share it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Normalise:
    """uint8 NHWC RGB -> float32 NCHW, (x / 255 - mean) / std, on the device. The result is channels_last, as NHWC bytes are."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        scale_3 = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        self._scale_3 = scale_3.float().to(self.device)
        self._offset_3 = (-torch.tensor(mean, dtype=torch.float64) * 255 * scale_3).float().to(self.device)

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        images = images_NHWC.to(self.device, non_blocking=True)
        return torch.addcmul(self._offset_3, images, self._scale_3).permute(0, 3, 1, 2)
