"""Label Studio's run lengths of a brush: thi.ng's `rle-pack`, bit by bit, of an RGBA image in row order.

The bits: how many values (32), bits a value less one (5), bits of each of four kinds of length less one (4 x 4); then run after run: 1,
which kind (2), length less one, value (8). A byte of zeros more where the bits fill the last one, as label-studio-sdk writes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_length_bits = (3, 4, 8, 16)
_longest = 1 << 16
_channels = 4  # a pixel of the brush is 255 in all of them; Label Studio looks at the last, alpha


def encode(crop: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> list[int]:
    """The bytes for an image `height` x `width` that has `crop` at (`top`, `left`) and no other pixel set."""
    lengths = _channels * _runs(crop, top, left, height, width)
    values = np.where(np.arange(lengths.size) % 2, 255, 0)
    pieces = np.maximum(1, -(-lengths // _longest))  # a run that is too long for 16 bits is several
    owner = np.repeat(np.arange(lengths.size), pieces)
    lengths, values = np.where(np.diff(owner, append=-1) == 0, _longest, (lengths - (pieces - 1) * _longest)[owner]), values[owner]
    lengths, values = lengths[lengths > 0], values[lengths > 0]
    kind = np.searchsorted([1 << bits for bits in _length_bits], lengths)
    size = np.array(_length_bits)[kind]
    code = (((4 + kind) << size | lengths - 1) << 8) | values
    header = height * width * _channels << 21 | 7 << 16 | int("".join(f"{bits - 1:04b}" for bits in _length_bits), 2)
    return np.packbits(_bits(np.append(header, code), np.append(53, size + 11))).tolist()


def _runs(crop: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> NDArray[np.int64]:
    """Lengths of the image's runs row by row, of pixels that are not set first."""
    padded = np.zeros((crop.shape[0], crop.shape[1] + 2), np.int8)
    padded[:, 1:-1] = crop
    row, column = np.nonzero(np.diff(padded, axis=1))
    edges = (row + top) * width + left + column  # a start, its stop, the next start, ...
    apart = np.flatnonzero(edges[2::2] != edges[1:-1:2])  # a run that goes on in the next row is one
    kept = np.concatenate((edges[:1], np.column_stack((edges[1:-1:2][apart], edges[2::2][apart])).ravel(), edges[-1:]))
    return np.diff(kept, prepend=0, append=height * width)


def _bits(numbers: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Each number in that many bits, the highest first, one after the other; and zeros up to a byte, a whole one where they end on one."""
    ends = np.cumsum(sizes)
    total = int(ends[-1])
    bits = np.zeros(total + 8 - total % 8, np.uint8)
    for size in np.unique(sizes).tolist():
        chosen = sizes == size
        for place in range(size):
            bits[ends[chosen] - 1 - place] = numbers[chosen] >> place & 1
    return bits
