"""Where an image changes: Sobel's gradient and Canny's edges, in tensor operations that compile, export and run on any device.

Gradients are plain arithmetic on slices, not convolutions: autocast leaves them in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TANGENT = 13573 / 2**15  # of 22.5 degrees, as OpenCV rounds it; products with gradients of 8-bit images are exact in float32


def sobel(image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """d/dx and d/dy by Sobel's 3x3 kernels, each (N, C, H, W); the image is continued by its edge. A step of 1 has gradient 4."""
    padded = F.pad(image_NCHW, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    columns = padded[:, :, :, :-2] + 2 * padded[:, :, :, 1:-1] + padded[:, :, :, 2:]
    return rows[:, :, :, 2:] - rows[:, :, :, :-2], columns[:, :, 2:] - columns[:, :, :-2]


def gradient_magnitude(image_NCHW: Tensor) -> Tensor:
    """Length of the gradient (N, 1, H, W), 1 beside a straight step of 1; of the channel in which it is largest."""
    dx, dy = sobel(image_NCHW)
    return (dx.square() + dy.square()).amax(1, keepdim=True).sqrt() / 4


def canny(grey_NCHW: Tensor, low: float, high: float, steps: int) -> Tensor:
    """Canny's edges (N, 1, H, W), 1 or 0, as `cv2.Canny(image, low, high)` finds them in 8-bit images (gradient |dx| + |dy|).

    `grey_NCHW`: levels of 0..255 up to a constant; gradients are rounded to whole levels. From a strong edge, weak ones are
    followed for `steps` pixels, where OpenCV follows them to their end.
    """
    dx, dy = (gradient.round() for gradient in sobel(grey_NCHW))
    sizes = dx.abs() + dy.abs()
    size, x, y = sizes[:, :1], dx[:, :1], dy[:, :1]
    for channel in range(1, grey_NCHW.shape[1]):
        here = slice(channel, channel + 1)
        larger = sizes[:, here] > size
        size, x, y = (torch.where(larger, new[:, here], old) for new, old in ((sizes, size), (dx, x), (dy, y)))
    candidate = (size > low) & _is_peak(size, x, y)
    weak = candidate.to(grey_NCHW.dtype)
    edges = (candidate & (size > high)).to(grey_NCHW.dtype)
    around = weak.new_ones(1, 1, 3, 3)
    for _ in range(steps):  # a convolution of 0 and 1 is exact in any precision, and torch.compile makes no code of its own for it
        edges = torch.minimum(F.conv2d(edges, around, padding=1), weak)
    return edges


def _is_peak(size: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Larger than both neighbours in the gradient's direction, of four. Of two equal ones along an axis, the first is the peak."""
    height, width = size.shape[-2:]
    padded = F.pad(size, (1, 1, 1, 1))

    def at(down: int, right: int) -> Tensor:
        return padded[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    run, rise = x.abs(), y.abs()
    along_x = (size > at(0, -1)) & (size >= at(0, 1))
    along_y = (size > at(-1, 0)) & (size >= at(1, 0))
    falling = (size > at(-1, -1)) & (size > at(1, 1))
    rising = (size > at(-1, 1)) & (size > at(1, -1))
    level, steep = rise < run * TANGENT, rise - 2 * run > run * TANGENT
    turning = (x < 0) != (y < 0)
    diagonal = ~(level | steep) & ((turning & rising) | (~turning & falling))  # torch.where of bools is not in ONNX Runtime
    return (level & along_x) | (~level & steep & along_y) | diagonal
